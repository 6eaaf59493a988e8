//! The rules of the schema: what `kubectl apply` refuses, and what it says then. Lists and texts are bounded, since
//! the API server refuses rules that could take long.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Longest prefix or address there is, in characters.
const ADDRESS_LENGTH: usize = 49;

/// Two prefixes share an address. (`containsCIDR` of some API servers does not mask what it compares.)
const OVERLAP: &str = "(cidr(a).containsIP(cidr(b).ip()) || cidr(b).containsIP(cidr(a).ip()))";

/// Addresses that are neither a pod's nor a router's, as CEL lists. IPv4-mapped ones are no addresses for CEL.
const SPECIAL6: &str = "['::/128', '::1/128', 'fe80::/10', 'ff00::/8']";
const SPECIAL4: &str = "['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '255.255.255.255/32']";

fn rule(rule: impl Into<String>, message: &str) -> Value {
    json!({ "rule": rule.into(), "message": message })
}

/// Of a whole specification.
pub(super) fn node() -> Value {
    json!([rule(
        "self.bgp.peers.all(p, !isIP(p.address) || \
         !(self.cidr6 + self.cidr4).exists(c, isCIDR(c) && cidr(c).containsIP(p.address)))",
        "the address of a peer lies in a pool: use an address outside every pool of this node",
    )])
}

/// `cidr6`.
pub(super) fn cidr6(_: &mut SchemaGenerator) -> Schema {
    let item = json!([
        is_cidr(6, "is not an IPv6 prefix: write ADDRESS/LENGTH, as in 2001:db8:f001::/64"),
        no_host_bits(),
        rule(
            format!("!isCIDR(self) || !{SPECIAL6}.exists(a, {})", overlap_with_self()),
            "overlaps a range that is not unicast: use addresses that nobody else has",
        ),
        rule(
            "!isCIDR(self) || cidr(self).prefixLength() <= 127",
            "has no address for a pod: use a /127 or larger"
        ),
    ]);
    pools(&item)
}

/// `cidr4`.
pub(super) fn cidr4(_: &mut SchemaGenerator) -> Schema {
    let item = json!([
        is_cidr(4, "is not an IPv4 prefix: write ADDRESS/LENGTH, as in 192.0.2.0/24"),
        no_host_bits(),
        rule(
            format!("!isCIDR(self) || !{SPECIAL4}.exists(a, {})", overlap_with_self()),
            "overlaps a range that is not unicast: use addresses that nobody else has",
        ),
        rule(
            "!isCIDR(self) || cidr(self).prefixLength() <= 30",
            "has no address for a pod: use a /30 or larger"
        ),
    ]);
    pools(&item)
}

fn overlap_with_self() -> String {
    OVERLAP.replace("cidr(b)", "cidr(self)")
}

fn pools(item: &Value) -> Schema {
    let disjoint = format!("self.all(a, !isCIDR(a) || self.exists_one(b, isCIDR(b) && {OVERLAP}))");
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": { "type": "string", "maxLength": ADDRESS_LENGTH, "x-kubernetes-validations": item },
        "x-kubernetes-validations": [rule(disjoint, "two pools overlap: keep one of them, or make them disjoint")],
    })
}

fn is_cidr(family: u8, message: &str) -> Value {
    rule(format!("isCIDR(self) && cidr(self).ip().family() == {family}"), message)
}

fn no_host_bits() -> Value {
    let message = "has host bits set: write the address of the network";
    rule("!isCIDR(self) || cidr(self) == cidr(self).masked()", message)
}

/// `asn`, ours and a peer's.
pub(super) fn asn(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "integer",
        "format": "int64",
        "minimum": 1,
        "maximum": 4_294_967_294_u32,
        "x-kubernetes-validations": [rule(
            "!(self in [23456, 65535])",
            "is reserved (RFC 6793, RFC 7300): use another number from 1 to 4294967294",
        )],
    })
}

/// `routerID`.
pub(super) fn router_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 15,
        "x-kubernetes-validations": [rule(
            "isIP(self) && ip(self).family() == 4 && !ip(self).isUnspecified()",
            "is not a router ID: write an IPv4 address such as 192.0.2.10, or leave the field out",
        )],
    })
}

/// `peers`.
pub(super) fn peers() -> Value {
    json!([rule(
        "self.all(p, !isIP(p.address) || \
         self.exists_one(q, isIP(q.address) && ip(q.address) == ip(p.address)))",
        "two peers have the same address: keep one of them",
    )])
}

/// `address` of a peer.
pub(super) fn peer_address(_: &mut SchemaGenerator) -> Schema {
    let special = format!("({SPECIAL6} + {SPECIAL4})");
    json_schema!({
        "type": "string",
        "maxLength": ADDRESS_LENGTH,
        "x-kubernetes-validations": [
            rule(
                "isIP(self)",
                "is not an IP address: write it without prefix length, port or zone, as in 2001:db8::1",
            ),
            rule(
                format!("!isIP(self) || !{special}.exists(r, cidr(r).containsIP(self))"),
                "is no address of a router: use a unicast address that is not link-local",
            ),
        ],
    })
}

/// `cidrs` of a claim.
pub(super) fn claim_cidrs(_: &mut SchemaGenerator) -> Schema {
    let special = format!("({SPECIAL6} + {SPECIAL4})");
    let within = format!(
        "!isCIDR(self) || !{special}.exists(r, cidr(r).containsIP(cidr(self).ip()) && \
         cidr(r).prefixLength() <= cidr(self).prefixLength())"
    );
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 32,
        "items": {
            "type": "string",
            "maxLength": ADDRESS_LENGTH,
            "x-kubernetes-validations": [
                rule("isCIDR(self)", "is not a prefix: write ADDRESS/LENGTH, as in 2001:db8:a::/64 or 192.0.2.0/26"),
                no_host_bits(),
                rule(within, "is a range that is not unicast: use addresses that a pod can have"),
            ],
        },
        "x-kubernetes-validations": [rule(
            "self.all(a, !isCIDR(a) || self.exists_one(b, isCIDR(b) && cidr(a) == cidr(b)))",
            "a prefix is there twice: keep one of them",
        )],
    })
}

/// `kinds` of a claim.
pub(super) fn kinds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 2,
        "items": { "type": "string", "enum": ["anycast", "addresses"] },
        "x-kubernetes-validations": [rule(
            "self.all(a, self.exists_one(b, a == b))",
            "a kind is there twice: keep one of them",
        )],
    })
}

/// A label key: an optional DNS subdomain and a slash, then a name.
const KEY: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
const VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";

fn label_value() -> Value {
    json!({ "type": "string", "maxLength": 63, "pattern": VALUE })
}

/// `key` of a requirement.
pub(super) fn label_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 317, "pattern": KEY })
}

/// `values` of a requirement.
pub(super) fn label_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 64, "items": label_value() })
}

/// `matchLabels`. Its keys are left to the core: nothing in a schema bounds their length, and the API server
/// refuses a rule that could take as long as the longest request.
pub(super) fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": label_value(),
    })
}

/// `operator` of a requirement.
pub(super) fn operator(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"] })
}

/// A requirement.
pub(super) fn requirement() -> Value {
    json!([
        rule(
            "!(self.operator in ['In', 'NotIn']) || has(self.values) && size(self.values) > 0",
            "In and NotIn need values: add at least one"
        ),
        rule(
            "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || size(self.values) == 0",
            "Exists and DoesNotExist take no values: remove them, or use In or NotIn",
        ),
    ])
}
