//! Frozen fields: the record fixes each once while a round runs: the dealers, the responses, the qualified.
//!
//! Bundles and responses are named by digest, so a record stays small at a hundred nodes and everyone can check what the
//! digests stand for against signed messages.

use std::collections::BTreeMap;

use super::ValidPlan;
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identifiers::{Digest, NodeIndex};

/// A list of (node, digest of what it said), ascending by index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FrozenDigests(Vec<(NodeIndex, Digest)>);

impl FrozenDigests {
    /// Wraps a list.
    ///
    /// # Errors
    /// Gives the list back when it does not ascend without repetition.
    pub fn new(list: Vec<(NodeIndex, Digest)>) -> Result<Self, Vec<(NodeIndex, Digest)>> {
        if list.is_sorted_by(|a, b| a.0 < b.0) { Ok(Self(list)) } else { Err(list) }
    }

    /// Lists the pairs of a map.
    #[must_use]
    pub fn of(pairs: BTreeMap<NodeIndex, Digest>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// Iterates over the pairs, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (NodeIndex, Digest)> {
        self.0.iter().copied()
    }

    /// Returns the digest listed for `index`.
    #[must_use]
    pub fn get(&self, index: NodeIndex) -> Option<Digest> {
        self.0.binary_search_by_key(&index, |(listed, _)| *listed).ok().map(|at| self.0[at].1)
    }

    /// Returns the number of nodes listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.list(&self.0, |out, (index, digest)| {
            out.index(*index).digest(digest);
        });
    }

    pub(crate) fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let list = reader.list(field, |reader| Ok((reader.index(field)?, reader.digest(field)?)))?;
        Self::new(list).map_err(|_| DecodeError::Invalid { field })
    }
}

/// Returns the digest that responses name: of the frozen dealers and their plan.
#[must_use]
pub fn dealers_digest(plan: &Digest, dealers: &FrozenDigests) -> Digest {
    let mut out = Writer::default();
    out.digest(plan);
    dealers.write(&mut out);
    Digest::of("KEYFLEET-V1-DEALERS", &[&out.finish()])
}

/// All frozen fields of a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frozen {
    /// The dealers whose bundles count, with the bundles' digests.
    pub dealers: FrozenDigests,
    /// The receivers whose responses count, with the responses' digests.
    pub responses: FrozenDigests,
    /// The dealers that qualified, ascending: what the responses make of the dealers.
    pub qualified: Vec<NodeIndex>,
}

impl Frozen {
    /// Returns the qualified dealers with their bundles' digests; `None` where one of them is not among the dealers.
    #[must_use]
    pub fn qualified_bundles(&self) -> Option<FrozenDigests> {
        let listed = self.qualified.iter().map(|dealer| Some((*dealer, self.dealers.get(*dealer)?)));
        FrozenDigests::new(listed.collect::<Option<_>>()?).ok()
    }

    /// Returns the digest that `Prepared` messages name.
    #[must_use]
    pub fn digest(&self, plan: &Digest) -> Digest {
        let mut out = Writer::default();
        out.digest(plan);
        self.write(&mut out);
        Digest::of("KEYFLEET-V1-FROZEN", &[&out.finish()])
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        self.dealers.write(out);
        self.responses.write(out);
        out.list(&self.qualified, |out, index| {
            out.index(*index);
        });
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            dealers: FrozenDigests::read(reader, "dealers")?,
            responses: FrozenDigests::read(reader, "responses")?,
            qualified: reader.list("qualified", |reader| reader.index("qualified"))?,
        })
    }
}

/// Returns true if a frozen list of dealers can be one of this plan: known dealers only, and enough of them.
#[must_use]
pub fn dealers_fit(plan: &ValidPlan, dealers: &FrozenDigests) -> bool {
    dealers.len() >= plan.dealers_needed() && dealers.iter().all(|(dealer, _)| plan.dealer(dealer).is_some())
}

/// Returns true if a frozen list of responses can be one of this plan: receivers only.
#[must_use]
pub fn responses_fit(plan: &ValidPlan, responses: &FrozenDigests) -> bool {
    responses.iter().all(|(receiver, _)| plan.receiver(receiver).is_some())
}
