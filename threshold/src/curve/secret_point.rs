//! Points that nobody else may learn.

use zeroize::Zeroizing;

use super::{G1, SecretScalar};

/// A Diffie–Hellman value in G1: known to the two ends that share it, and to nobody else. Wiped when dropped.
pub struct SecretPoint(G1);

impl SecretPoint {
    /// Multiplies a public point with a secret scalar, in constant time.
    #[must_use]
    pub fn shared(public: &G1, secret: &SecretScalar) -> Self {
        Self(public.times_secret(secret))
    }

    /// Returns the compressed bytes, wiped when dropped: for deriving a key, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<[u8; G1::BYTES]> {
        Zeroizing::new(self.0.encode())
    }

    /// Gives up secrecy on purpose: what a complaint does with the value that it shares with a dealer that cheated.
    #[must_use]
    pub fn disclose(&self) -> G1 {
        self.0
    }
}

impl Drop for SecretPoint {
    fn drop(&mut self) {
        self.0.wipe();
    }
}
