//! Who may take which address (interfaces.md section 8).

/// One entry of `spec.claims`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {}
