//go:build tools

// Programs that are built as they are, from their own main packages: named here so that go.mod pins them.
package tools

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
	_ "helm.sh/helm/v3/cmd/helm"
)
