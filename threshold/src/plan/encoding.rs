//! The canonical bytes of a plan. `docs/formats.md` says the same byte by byte; the fixtures hold both to it.

use super::{Deadlines, MEMBERS_MAX, Member, Origin, Plan, PlanVersion, Receiver, Source};
use crate::encoding::{DecodeError, Reader, Writer};
use crate::identity::IdentityPublicKey;
use crate::prekey::SignedPrekey;

const GENESIS: u8 = 1;
const RESHARE: u8 = 2;

impl Plan {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish()
    }

    /// Decodes canonical bytes. The result is well-formed, not yet valid: see [`Plan::validate`].
    ///
    /// # Errors
    /// When the bytes are not exactly one plan of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Reader::whole(bytes, Self::read)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u16(self.version.number()).raw(&self.cluster.0).epoch(self.number);
        match &self.origin {
            Origin::Genesis => {
                out.u8(GENESIS);
            }
            Origin::Reshare { source, public_key } => {
                out.u8(RESHARE).epoch(source.number).digest(&source.plan).digest(&source.vector);
                out.u16(source.threshold.0).raw(&public_key.encode());
            }
        }
        out.u64(self.block.0).u16(self.threshold.0).u16(self.min_holders);
        out.list(&self.dealers, |out, dealer| {
            // The point at which the dealer's share of the source lies: its index.
            out.index(dealer.index).raw(&dealer.identity.0).index(dealer.index);
        });
        out.list(&self.receivers, |out, receiver| {
            out.index(receiver.index).raw(&receiver.identity.0);
            out.option(receiver.prekey.as_ref(), |out, prekey| prekey.write(out));
        });
        out.list(&self.expected, |out, index| {
            out.index(*index);
        });
        let Deadlines { dealing_blocks, verifying_blocks, preparing_blocks, certifying_blocks } = self.deadlines;
        out.u32(dealing_blocks).u32(verifying_blocks).u32(preparing_blocks).u32(certifying_blocks);
        out.option(self.roster.as_ref(), |out, roster| {
            out.digest(roster);
        });
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = match reader.u16("planVersion")? {
            2 => PlanVersion::V2,
            _ => return Err(DecodeError::Invalid { field: "planVersion" }),
        };
        let cluster = reader.cluster()?;
        let number = reader.epoch("number")?;
        let origin = match reader.u8("kind")? {
            GENESIS => Origin::Genesis,
            RESHARE => Origin::Reshare {
                source: Source {
                    number: reader.epoch("source number")?,
                    plan: reader.digest("source plan digest")?,
                    vector: reader.digest("source vector digest")?,
                    threshold: reader.threshold("old threshold")?,
                },
                public_key: reader.g2("expected public key")?,
            },
            _ => return Err(DecodeError::Invalid { field: "kind" }),
        };
        Ok(Self {
            version,
            cluster,
            number,
            origin,
            block: reader.block("block")?,
            threshold: reader.threshold("threshold")?,
            min_holders: reader.u16("minHolders")?,
            dealers: reader.short_list("dealers", MEMBERS_MAX, |reader| {
                let member = Member { index: reader.index("dealer index")?, identity: read_identity(reader)? };
                let point = reader.index("dealer point")?;
                if point == member.index { Ok(member) } else { Err(DecodeError::Invalid { field: "dealer point" }) }
            })?,
            receivers: reader.short_list("receivers", MEMBERS_MAX, |reader| {
                Ok(Receiver {
                    index: reader.index("receiver index")?,
                    identity: read_identity(reader)?,
                    prekey: reader.option("prekey", SignedPrekey::read)?,
                })
            })?,
            expected: reader.short_list("expected", 2 * MEMBERS_MAX, |reader| reader.index("expected index"))?,
            deadlines: Deadlines {
                dealing_blocks: reader.u32("dealing deadline")?,
                verifying_blocks: reader.u32("verifying deadline")?,
                preparing_blocks: reader.u32("preparing deadline")?,
                certifying_blocks: reader.u32("certifying deadline")?,
            },
            roster: reader.option("roster", |reader| reader.digest("roster digest"))?,
        })
    }
}

fn read_identity(reader: &mut Reader<'_>) -> Result<IdentityPublicKey, DecodeError> {
    reader.array("identity key").map(IdentityPublicKey)
}
