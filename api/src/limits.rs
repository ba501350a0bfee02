//! Limits of the interfaces, as the `.proto` files say them.

/// Bytes of a request.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one item of a `Round` stream.
pub const ITEM_BYTES_MAX: usize = 64 << 10;
/// Bytes of a signed payload: what is left of an item for it.
pub const PAYLOAD_BYTES_MAX: usize = 60 << 10;
/// Digests in one `Fetch`.
pub const FETCH_DIGESTS_MAX: usize = 128;
/// Prekeys in one report.
pub const REPORT_PREKEYS_MAX: usize = 100;
/// `Follow` streams of one caller.
pub const FOLLOW_STREAMS_PER_CALLER_MAX: usize = 4;
/// `Fetch` calls of one caller at a time.
pub const FETCH_CALLS_PER_CALLER_MAX: usize = 8;
/// `Prove` calls of one caller at a time.
pub const PROVE_CALLS_PER_CALLER_MAX: usize = 2;
/// `Follow` streams, and as many calls of each other kind, of all observers together.
pub const OBSERVER_CALLS_MAX: usize = 64;
/// Seconds between keep-alive pings of a `Follow` stream.
pub const KEEP_ALIVE_SECONDS: u64 = 20;
/// Bytes of an identity in `Derive`.
pub const IDENTITY_BYTES_MAX: usize = 1_024;
/// Bytes of a key name in `Sign`.
pub const KEY_NAME_BYTES_MAX: usize = 256;
/// Bytes of a message in `Sign`.
pub const SIGNED_MESSAGE_BYTES_MAX: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{
        AcceptedPrekey, FollowItem, HeldEpoch, KnownNode, NamedMessage, OutboxRow, Report, SignRequest, SignedMessage,
        SignedReport, follow_item, outbox_row, sign_request,
    };
    use prost::Message;

    /// The largest bundle: a hundred nodes, threshold a hundred, 10 KB of commitments and 8 KB of sealed shares.
    #[test]
    fn the_largest_bundle_fits_a_payload() {
        let bundle = 32 + 4 + 1 + (4 + 100 * 96) + (1 + 96 + 32) + (4 + 100 * 80);
        assert!(bundle <= PAYLOAD_BYTES_MAX, "{bundle} bytes");
    }

    /// The largest payload fits an item and the largest message a request.
    #[test]
    fn the_largest_payload_and_message_fit_their_limits() {
        let message = SignedMessage { kind: 1, payload: vec![0; PAYLOAD_BYTES_MAX], signature: vec![0; 64] };
        let row = OutboxRow { position: u64::MAX, number: u64::MAX, said: Some(outbox_row::Said::Message(message)) };
        let item = FollowItem { item: Some(follow_item::Item::Row(row)) };
        assert!(item.encoded_len() <= ITEM_BYTES_MAX, "{} bytes", item.encoded_len());

        let named =
            NamedMessage { key_name: "k".repeat(KEY_NAME_BYTES_MAX), message: vec![0; SIGNED_MESSAGE_BYTES_MAX] };
        let purpose = Some(sign_request::Purpose::Message(named));
        let request = SignRequest { cluster_id: vec![0; 16], request_id: vec![0; 16], purpose, epoch: u64::MAX };
        assert!(request.encoded_len() <= MESSAGE_BYTES_MAX, "{} bytes", request.encoded_len());
    }

    /// The report of a node of the largest fleet, which keeps many epochs and saw other receivers leave.
    #[test]
    fn the_largest_report_fits_an_item() {
        let digest = || vec![1; 32];
        let node = || KnownNode { index: u32::MAX, identity_key: digest() };
        let held =
            || HeldEpoch { number: u64::MAX, plan_digest: digest(), vector_digest: digest(), possession: vec![1; 48] };
        let prekey =
            || AcceptedPrekey { index: u32::MAX, number: u64::MAX, public_key: vec![1; 48], signature: vec![1; 64] };
        let report = Report {
            held: std::iter::repeat_with(held).take(16).collect(),
            nodes: std::iter::repeat_with(node).take(200).collect(),
            prekeys: std::iter::repeat_with(prekey).take(REPORT_PREKEYS_MAX).collect(),
            version: "v".repeat(64),
            ..Report::default()
        };
        let signed = SignedReport { payload: report.encode_to_vec(), signature: vec![0; 64] };
        let item = FollowItem { item: Some(follow_item::Item::Report(signed)) };
        assert!(item.encoded_len() <= ITEM_BYTES_MAX, "{} bytes", item.encoded_len());
    }
}
