//! Access to derivation and signing: token issuers, and rules over their subjects.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults;
use crate::patterns;

/// The name by which rules mean the Kubernetes cluster's own ServiceAccount tokens.
pub const KUBERNETES_ISSUER: &str = "kubernetes";

/// Callers that may use the key, and for what.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new(
    "!has(self.rules) || self.rules.all(rule, (rule.issuer == 'kubernetes' && self.kubernetes) || (has(self.issuers) \
     && self.issuers.exists(issuer, issuer.name == rule.issuer)))"
).message(
    "a rule names an issuer that is not there: name one of access.issuers, or kubernetes (and leave access.kubernetes true)"
))]
pub struct Access {
    /// Accepts ServiceAccount tokens of this Kubernetes cluster, as issuer `kubernetes`. Default true.
    #[serde(default = "defaults::yes")]
    pub kubernetes: bool,
    /// Other OpenID Connect issuers whose tokens prove who a caller is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub issuers: Vec<Issuer>,
    /// Rules that allow requests. A request passes when one rule allows all of it. Without a rule nothing is allowed. Nodes
    /// follow changes without a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<AccessRule>,
    /// Enables the beacon purpose: signatures over round numbers, as drand makes them. Each signature opens whatever was
    /// timelocked to its round. Default false.
    #[serde(default)]
    pub beacon: bool,
    /// Tokens that live longer than this many seconds are refused. Default 3600.
    #[serde(default = "max_token_seconds")]
    #[schemars(range(min = 60, max = 86_400))]
    pub max_token_seconds: u32,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            kubernetes: true,
            issuers: Vec::new(),
            rules: Vec::new(),
            beacon: false,
            max_token_seconds: max_token_seconds(),
        }
    }
}

/// An OpenID Connect issuer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.name != 'kubernetes'").message(
    "the name kubernetes stands for this cluster's own tokens: choose another"
))]
pub struct Issuer {
    /// The name by which rules mean it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// The token's `iss`, exactly; keys are found through its `/.well-known/openid-configuration`.
    #[schemars(length(min = 9, max = 2048), regex(pattern = r"^https://"))]
    pub url: String,
    /// A ConfigMap whose key `ca.crt` holds the certificates that the issuer's may be signed by. Absent: the authorities
    /// that Mozilla trusts, as they were when the node was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_config_map: Option<String>,
}

/// One permission. In all patterns `*` stands for any characters, none included.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!self.verbs.exists(verb, verb == 'Derive') || has(self.identities)").message(
    "a rule with the verb Derive needs identities: patterns of the identities whose keys may be derived"
))]
#[x_kube(validation = Rule::new("!self.verbs.exists(verb, verb == 'Sign') || has(self.keyNames)").message(
    "a rule with the verb Sign needs keyNames: patterns of the key names that may be signed with"
))]
pub struct AccessRule {
    /// Issuer of the callers' tokens: `kubernetes` (default), or the name of one of `issuers`.
    #[serde(default = "kubernetes_issuer")]
    #[schemars(length(min = 1, max = 63))]
    pub issuer: String,
    /// Patterns of the token's `sub`, like `system:serviceaccount:shop:checkout`.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 256)))]
    pub subjects: Vec<String>,
    /// Requests that the callers may make.
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub verbs: Vec<Verb>,
    /// Patterns of identities, for `Derive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 256)))]
    pub identities: Option<Vec<String>>,
    /// Patterns of key names, for `Sign`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 256)))]
    pub key_names: Option<Vec<String>>,
}

/// Kind of request.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verb {
    /// Derive the key of an identity, which opens what was encrypted to it.
    Derive,
    /// Sign a message under a key name.
    Sign,
    /// Sign a round number for the beacon.
    Beacon,
    /// Read what nodes say to each other in rounds, as an auditor does who checks a round's transcript. It holds no secret.
    Observe,
}

/// Request of a caller, as rules see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// The key of this identity.
    Derive(&'a str),
    /// A signature under this key name.
    Sign(&'a str),
    /// A beacon signature.
    Beacon,
    /// The streams of rounds.
    Observe,
}

impl Access {
    /// The issuers whose tokens count, by the names of the rules.
    #[must_use]
    pub fn issuer_names(&self) -> Vec<String> {
        let kubernetes = self.kubernetes.then(|| KUBERNETES_ISSUER.to_owned());
        kubernetes.into_iter().chain(self.issuers.iter().map(|issuer| issuer.name.clone())).collect()
    }

    /// Returns true where a rule allows `request` to a caller whose token `issuer` (by the name of the rules) signed for
    /// `subject`.
    #[must_use]
    pub fn allows(&self, issuer: &str, subject: &str, request: Request<'_>) -> bool {
        let issuer_is_known = match issuer {
            KUBERNETES_ISSUER => self.kubernetes,
            name => self.issuers.iter().any(|issuer| issuer.name == name),
        };
        let enabled = request != Request::Beacon || self.beacon;
        issuer_is_known && enabled && self.rules.iter().any(|rule| rule.allows(issuer, subject, request))
    }
}

impl AccessRule {
    fn allows(&self, issuer: &str, subject: &str, request: Request<'_>) -> bool {
        let asked = match request {
            Request::Derive(identity) => {
                self.verbs.contains(&Verb::Derive)
                    && any_matches(self.identities.as_deref().unwrap_or_default(), identity)
            }
            Request::Sign(key_name) => {
                self.verbs.contains(&Verb::Sign) && any_matches(self.key_names.as_deref().unwrap_or_default(), key_name)
            }
            Request::Beacon => self.verbs.contains(&Verb::Beacon),
            Request::Observe => self.verbs.contains(&Verb::Observe),
        };
        asked && self.issuer == issuer && any_matches(&self.subjects, subject)
    }
}

fn any_matches(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| patterns::matches(pattern, text))
}

fn kubernetes_issuer() -> String {
    KUBERNETES_ISSUER.to_owned()
}

fn max_token_seconds() -> u32 {
    3_600
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[Verb]) -> AccessRule {
        AccessRule {
            issuer: kubernetes_issuer(),
            subjects: vec!["system:serviceaccount:shop:*".into()],
            verbs: verbs.to_vec(),
            identities: Some(vec!["shop/*".into()]),
            key_names: Some(vec!["receipts".into()]),
        }
    }

    const CALLER: &str = "system:serviceaccount:shop:checkout";

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert!(!Access::default().allows(KUBERNETES_ISSUER, CALLER, Request::Derive("shop/db")));
    }

    #[test]
    fn a_rule_allows_what_it_names_and_no_more() {
        let access = Access { rules: vec![rule(&[Verb::Derive, Verb::Sign])], ..Access::default() };
        let allows = |subject, request| access.allows(KUBERNETES_ISSUER, subject, request);
        assert!(allows(CALLER, Request::Derive("shop/db")));
        assert!(allows(CALLER, Request::Sign("receipts")));
        assert!(!allows(CALLER, Request::Derive("bank/db")), "another identity");
        assert!(!allows(CALLER, Request::Sign("shop/db")), "identities are no key names");
        assert!(!allows("system:serviceaccount:bank:x", Request::Derive("shop/db")), "another subject");
        assert!(!access.allows("corp", CALLER, Request::Derive("shop/db")), "another issuer with the same subject");
        assert!(!allows(CALLER, Request::Beacon));
        assert!(!allows(CALLER, Request::Observe), "who may derive may not read rounds");
        let auditors = Access { rules: vec![rule(&[Verb::Observe])], ..Access::default() };
        assert!(auditors.allows(KUBERNETES_ISSUER, CALLER, Request::Observe));
        assert!(
            !auditors.allows(KUBERNETES_ISSUER, CALLER, Request::Derive("shop/db")),
            "who reads rounds derives nothing"
        );
    }

    #[test]
    fn the_beacon_needs_its_switch_beside_a_rule() {
        let mut access = Access { rules: vec![rule(&[Verb::Beacon])], ..Access::default() };
        assert!(!access.allows(KUBERNETES_ISSUER, CALLER, Request::Beacon), "off unless enabled");
        access.beacon = true;
        assert!(access.allows(KUBERNETES_ISSUER, CALLER, Request::Beacon));
    }

    #[test]
    fn an_issuer_that_was_switched_off_opens_nothing() {
        let access = Access { kubernetes: false, rules: vec![rule(&[Verb::Derive])], ..Access::default() };
        assert!(!access.allows(KUBERNETES_ISSUER, CALLER, Request::Derive("shop/db")));
    }
}
