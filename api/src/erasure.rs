//! A node's last word: that everything secret it had is destroyed. Ed25519 over SHA-256(`KEYFLEET-V1-ERASURE`, a zero byte,
//! cluster id, index as u32 big-endian) under the identity key, whose private half is gone when anybody reads it.

use keyfleet_threshold::identifiers::{ClusterId, Digest, NodeIndex};
use keyfleet_threshold::identity::{IdentityPublicKey, IdentitySecretKey, Signature};

/// Signs the statement.
#[must_use]
pub fn sign(cluster: ClusterId, index: NodeIndex, identity: &IdentitySecretKey) -> Signature {
    identity.sign(&digest(cluster, index))
}

/// Returns true when the node with this pin signed this of itself, in this cluster.
#[must_use]
pub fn is_signed(cluster: ClusterId, index: NodeIndex, pin: &IdentityPublicKey, statement: &Signature) -> bool {
    pin.verifies(&digest(cluster, index), statement)
}

fn digest(cluster: ClusterId, index: NodeIndex) -> Digest {
    Digest::of("KEYFLEET-V1-ERASURE", &[&cluster.0, &index.value().to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// seed: 002-27
    #[test]
    fn a_statement_is_of_one_node_in_one_cluster() {
        let identity = IdentitySecretKey::from_seed(&[7; 32]);
        let (cluster, index) = (ClusterId([1; 16]), NodeIndex::new(3).unwrap());
        let statement = sign(cluster, index, &identity);
        assert!(is_signed(cluster, index, &identity.public(), &statement));
        assert!(!is_signed(cluster, NodeIndex::new(4).unwrap(), &identity.public(), &statement), "another index");
        assert!(!is_signed(ClusterId([2; 16]), index, &identity.public(), &statement), "another cluster");
        assert!(
            !is_signed(cluster, index, &IdentitySecretKey::from_seed(&[8; 32]).public(), &statement),
            "another key"
        );
        let offer = identity.offer(cluster, index);
        assert!(!is_signed(cluster, index, &identity.public(), &offer), "an offer is no last word");
    }
}
