use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

/// The first 8 bytes of the SHA-256 of `content`. Tenants write policies, so the digest must not be one for which they
/// could find two contents with the same name. `Hash` feeds it an encoding in which nothing is the prefix of another.
pub(super) fn digest(kind: &str, content: &impl Hash) -> u64 {
    let mut digest = Digest(Sha256::new());
    kind.hash(&mut digest);
    content.hash(&mut digest);
    digest.finish()
}

struct Digest(Sha256);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.clone().finalize();
        hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
