{{- define "keyfleet-cluster.name" -}}
{{- default .Release.Name .Values.name -}}
{{- end -}}

{{- define "keyfleet-cluster.kek" -}}
{{- printf "%s-kek" (include "keyfleet-cluster.name" .) -}}
{{- end -}}

{{- define "keyfleet-cluster.labels" -}}
app.kubernetes.io/name: keyfleet
app.kubernetes.io/instance: {{ include "keyfleet-cluster.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}
