//! One WebSocket message: a header and protobuf bytes. Bytes in, message or error out.
//!
//! Promises: decoding is total (any bytes give a message or a typed error, R-015), bounded in size
//! and in depth (100 levels, R-306), and both are known, with the number of fields, before anything is allocated;
//! unknown fields are skipped. Encoding always writes the one-byte header
//! 0.
//! Must never: keep state, or allocate for a message that is over its limit.
//!
//! A server may omit the header (old ones do, R-307). That is unambiguous: a protobuf message cannot start with a zero
//! tag, so a leading varint of value 0, however long it is written, is a header and anything else is not.

mod scan;

use prost::Message;

use crate::messages::shape;
use crate::messages::{
    AgentRemoteConfig, AgentToServer, ConnectionSettingsOffers, ConnectionSettingsStatus,
    EffectiveConfig, PackageStatuses, PackagesAvailable, RemoteConfigStatus, ServerToAgent,
};

/// Default of both message limits, header included: 64 MiB.
pub const MAX_MESSAGE_DEFAULT: usize = 64 * 1024 * 1024;

/// The header of this protocol version: the varint 0.
pub(crate) const HEADER: u8 = 0;

/// Bytes of an identity.
const UID_LEN: usize = 16;

/// A varint of 64 bits takes at most this many bytes.
const VARINT_LEN_MAX: usize = 10;

/// Whether a received message may lack the header. Complete: it is there or it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderRule {
    /// With and without header; the default, because servers in the field omit it.
    #[default]
    Tolerant,
    /// Only with header.
    Required,
}

/// What a received message must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRules {
    /// Largest message in bytes, header included; this size itself is allowed.
    pub max_message: usize,
    /// Whether the header may be absent.
    pub header: HeaderRule,
}

impl Default for FrameRules {
    fn default() -> Self {
        Self {
            max_message: MAX_MESSAGE_DEFAULT,
            header: HeaderRule::Tolerant,
        }
    }
}

/// Why bytes are not a message, or a message was not put into bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A message of no bytes at all has not even a header.
    #[error("empty message without header")]
    Empty,
    /// The header is not a varint of at most ten bytes and 64 bits.
    #[error("header is not a complete varint")]
    HeaderIncomplete,
    /// A header value that this protocol version reserves.
    #[error("header value {value} is reserved")]
    HeaderReserved {
        /// The value that was read.
        value: u64,
    },
    /// Over the limit; nothing was decoded.
    #[error("message of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Size of the message, header included.
        bytes: usize,
        /// The limit it breaks.
        limit: usize,
    },
    /// Messages nest deeper than is read; nothing was decoded.
    #[error("messages nest deeper than {limit} levels")]
    TooDeep {
        /// The limit it breaks.
        limit: usize,
    },
    /// More fields than any real message has; nothing was decoded. A few bytes each, they would take many times as much
    /// memory.
    #[error("message has more than {limit} fields")]
    TooManyFields {
        /// The limit it breaks.
        limit: usize,
    },
    /// The payload is not the protobuf message that was expected.
    #[error("payload is not protobuf: {reason}")]
    Malformed {
        /// The decoder's words.
        reason: String,
    },
}

/// A message that travels or is stored as protobuf bytes, without header.
pub trait Wire: sealed::Sealed + Sized {
    /// Size of the protobuf bytes.
    fn wire_len(&self) -> usize;

    /// The protobuf bytes.
    fn to_wire(&self) -> Vec<u8>;

    /// Reads protobuf bytes, at most 100 levels deep and of at most 262 144 fields.
    ///
    /// # Errors
    /// [`FrameError::TooDeep`], [`FrameError::TooManyFields`], [`FrameError::Malformed`] for anything else that is not
    /// this message.
    fn from_wire(bytes: &[u8]) -> Result<Self, FrameError>;

    #[doc(hidden)]
    fn append_to(&self, out: &mut Vec<u8>);
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! wire {
    ($($message:ty = $shape:expr),* $(,)?) => {$(
        impl sealed::Sealed for $message {}

        impl Wire for $message {
            fn wire_len(&self) -> usize {
                self.encoded_len()
            }

            fn to_wire(&self) -> Vec<u8> {
                self.encode_to_vec()
            }

            fn from_wire(bytes: &[u8]) -> Result<Self, FrameError> {
                scan::check(bytes, $shape)?;
                Self::decode(bytes).map_err(|error| FrameError::Malformed {
                    reason: error.to_string(),
                })
            }

            fn append_to(&self, out: &mut Vec<u8>) {
                // A Vec grows as needed, which is the only way this could fail.
                _ = self.encode(out);
            }
        }
    )*};
}

wire!(
    AgentToServer = shape::AGENT_TO_SERVER,
    ServerToAgent = shape::SERVER_TO_AGENT,
    AgentRemoteConfig = shape::AGENT_REMOTE_CONFIG,
    ConnectionSettingsOffers = shape::CONNECTION_SETTINGS_OFFERS,
    ConnectionSettingsStatus = shape::CONNECTION_SETTINGS_STATUS,
    EffectiveConfig = shape::EFFECTIVE_CONFIG,
    PackageStatuses = shape::PACKAGE_STATUSES,
    PackagesAvailable = shape::PACKAGES_AVAILABLE,
    RemoteConfigStatus = shape::REMOTE_CONFIG_STATUS,
);

/// Encodes `message` with its header.
///
/// # Errors
/// [`FrameError::TooLarge`] if the result would be larger than `max_message`.
pub fn encode<M: Wire>(message: &M, max_message: usize) -> Result<Vec<u8>, FrameError> {
    let bytes = message.wire_len().saturating_add(1);
    if bytes > max_message {
        return Err(FrameError::TooLarge {
            bytes,
            limit: max_message,
        });
    }
    let mut out = Vec::with_capacity(bytes);
    out.push(HEADER);
    message.append_to(&mut out);
    Ok(out)
}

/// The identity in a frame that [`encode`] made of a report: its first field.
#[cfg(feature = "polling")]
pub(crate) fn instance_uid(frame: &[u8]) -> Option<[u8; 16]> {
    // Field 1, length-delimited, 16 bytes.
    frame
        .strip_prefix(&[HEADER, 0x0A, 16])?
        .first_chunk()
        .copied()
}

/// Decodes one message.
///
/// # Errors
/// Every way in which bytes can fail to be this message, see [`FrameError`].
pub fn decode<M: Wire>(frame: &[u8], rules: FrameRules) -> Result<M, FrameError> {
    if frame.len() > rules.max_message {
        return Err(FrameError::TooLarge {
            bytes: frame.len(),
            limit: rules.max_message,
        });
    }
    M::from_wire(payload(frame, rules.header)?)
}

/// Whom a message of the server is for, without decoding it: for several sessions over one connection. Empty if
/// it names nobody; cut to 16 bytes if it names more than an identity has.
///
/// # Errors
/// As [`decode`], but what stands behind the address is not looked at.
pub fn addressee(frame: &[u8], rules: FrameRules) -> Result<Vec<u8>, FrameError> {
    /// `ServerToAgent.instance_uid`.
    const UID_FIELD: u64 = 1;
    if frame.len() > rules.max_message {
        return Err(FrameError::TooLarge {
            bytes: frame.len(),
            limit: rules.max_message,
        });
    }
    let uid = scan::bytes_field(payload(frame, rules.header)?, UID_FIELD);
    Ok(uid.iter().copied().take(UID_LEN).collect())
}

/// Strips the header.
fn payload(frame: &[u8], rule: HeaderRule) -> Result<&[u8], FrameError> {
    if frame.is_empty() {
        return Err(FrameError::Empty);
    }
    let (value, rest) = varint(frame).ok_or(FrameError::HeaderIncomplete)?;
    // The first varint of a payload is a tag: field number in the upper bits, which starts at 1.
    let is_tag = value >> 3 != 0;
    match rule {
        _ if value == u64::from(HEADER) => Ok(rest),
        HeaderRule::Tolerant if is_tag => Ok(frame),
        HeaderRule::Tolerant | HeaderRule::Required => Err(FrameError::HeaderReserved { value }),
    }
}

/// Reads a base-128 varint; `None` if it is unterminated or does not fit into 64 bits.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(VARINT_LEN_MAX).enumerate() {
        let bits = u64::from(byte & 0x7F);
        let shift = u32::try_from(index).ok()?.checked_mul(7)?;
        // The tenth byte has room for one bit only.
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits.checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index.checked_add(1)?..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messages::{AgentConfigFile, AgentConfigMap, CustomMessage};

    fn offer() -> ServerToAgent {
        ServerToAgent {
            instance_uid: vec![7; 16],
            remote_config: Some(AgentRemoteConfig {
                config: Some(AgentConfigMap {
                    config_map: [(
                        String::new(),
                        AgentConfigFile {
                            body: b"receivers: {}".to_vec(),
                            content_type: "text/yaml".to_owned(),
                        },
                    )]
                    .into(),
                }),
                config_hash: vec![0xFF, 0x00, 0x80],
            }),
            ..ServerToAgent::default()
        }
    }

    fn framed(header: &[u8], message: &ServerToAgent) -> Vec<u8> {
        [header, &message.to_wire()].concat()
    }

    fn required() -> FrameRules {
        FrameRules {
            header: HeaderRule::Required,
            ..FrameRules::default()
        }
    }

    //
    #[test]
    fn client_messages_start_with_one_zero_byte() {
        let message = AgentToServer {
            sequence_num: 3,
            ..AgentToServer::default()
        };
        let bytes = encode(&message, MAX_MESSAGE_DEFAULT).unwrap();
        assert_eq!(bytes[0], 0);
        assert_eq!(AgentToServer::from_wire(&bytes[1..]).unwrap(), message);
    }

    //
    #[test]
    fn headers_are_read_as_the_protocol_says() {
        let plain = offer().to_wire();
        let empty = Ok(ServerToAgent::default());
        let reserved = |value| Err(FrameError::HeaderReserved { value });
        let cases = vec![
            ("header", framed(&[0], &offer()), required(), Ok(offer())),
            (
                "header, tolerant",
                framed(&[0], &offer()),
                FrameRules::default(),
                Ok(offer()),
            ),
            (
                "non-minimal zero",
                framed(&[0x80, 0], &offer()),
                required(),
                Ok(offer()),
            ),
            (
                "longest zero",
                framed(
                    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
                    &offer(),
                ),
                required(),
                Ok(offer()),
            ),
            ("empty payload", vec![0], required(), empty.clone()),
            (
                "empty payload, tolerant",
                vec![0],
                FrameRules::default(),
                empty,
            ),
            (
                "no header, tolerant",
                plain.clone(),
                FrameRules::default(),
                Ok(offer()),
            ),
            ("no header, required", plain, required(), reserved(0x0A)),
            (
                "reserved header",
                framed(&[1], &offer()),
                FrameRules::default(),
                reserved(1),
            ),
            (
                "reserved header, required",
                framed(&[1], &offer()),
                required(),
                reserved(1),
            ),
            (
                "nothing",
                vec![],
                FrameRules::default(),
                Err(FrameError::Empty),
            ),
            (
                "unterminated",
                vec![0x80; 3],
                FrameRules::default(),
                Err(FrameError::HeaderIncomplete),
            ),
            (
                "eleven bytes",
                vec![0x80; 11],
                FrameRules::default(),
                Err(FrameError::HeaderIncomplete),
            ),
            (
                "65 bits",
                [vec![0x80; 9], vec![2]].concat(),
                FrameRules::default(),
                Err(FrameError::HeaderIncomplete),
            ),
        ];
        for (name, bytes, rules, wanted) in cases {
            assert_eq!(decode::<ServerToAgent>(&bytes, rules), wanted, "{name}");
        }
    }

    //
    #[test]
    fn garbage_after_the_header_is_an_error_with_a_reason() {
        let error =
            decode::<ServerToAgent>(&[0, 0x0A, 0x7F, 1], FrameRules::default()).unwrap_err();
        let FrameError::Malformed { reason } = error else {
            panic!("{error:?}")
        };
        assert!(reason.contains("Protobuf"), "{reason}");
    }

    //
    #[test]
    fn limits_count_the_header_and_allow_their_own_size() {
        let whole = encode(&offer(), MAX_MESSAGE_DEFAULT).unwrap();
        let rules = |max_message| FrameRules {
            max_message,
            header: HeaderRule::Tolerant,
        };
        assert_eq!(decode(&whole, rules(whole.len())), Ok(offer()));
        let over = FrameError::TooLarge {
            bytes: whole.len(),
            limit: whole.len() - 1,
        };
        assert_eq!(
            decode::<ServerToAgent>(&whole, rules(whole.len() - 1)),
            Err(over.clone())
        );
        assert_eq!(encode(&offer(), whole.len()).unwrap(), whole);
        assert_eq!(encode(&offer(), whole.len() - 1), Err(over));
        assert_eq!(FrameRules::default().max_message, 67_108_864);
    }

    //
    #[test]
    fn unknown_fields_are_skipped_and_known_ones_used() {
        let mut bytes = framed(&[0], &offer());
        // Field 14, length-delimited, three bytes.
        bytes.extend([0x72, 3, 1, 2, 3]);
        assert_eq!(decode(&bytes, FrameRules::default()), Ok(offer()));
    }

    //
    #[test]
    fn unknown_enum_values_are_kept_as_numbers() {
        let status = RemoteConfigStatus {
            status: 99,
            ..RemoteConfigStatus::default()
        };
        let read = RemoteConfigStatus::from_wire(&status.to_wire()).unwrap();
        assert_eq!(read.status, 99);
        assert!(crate::messages::RemoteConfigStatuses::try_from(99).is_err());
    }

    //
    #[test]
    fn ten_thousand_levels_are_an_error_and_not_an_overflow() {
        // AnyValue.array_value = 5, ArrayValue.values = 1, built from the inside out.
        let wrap = |tag: u8, inner: &[u8]| {
            let mut out = vec![tag];
            let mut length = inner.len();
            while length >= 0x80 {
                out.push(u8::try_from(length & 0x7F).unwrap() | 0x80);
                length >>= 7;
            }
            out.push(u8::try_from(length).unwrap());
            out.extend_from_slice(inner);
            out
        };
        let mut value = Vec::new();
        for _ in 0..10_000 {
            value = wrap(0x2A, &wrap(0x0A, &value));
        }
        // KeyValue.value = 2 in AgentDescription.identifying_attributes = 1 in AgentToServer.agent_description = 3.
        let bytes = wrap(0x1A, &wrap(0x0A, &wrap(0x12, &value)));
        let error = AgentToServer::from_wire(&bytes).unwrap_err();
        assert_eq!(error, FrameError::TooDeep { limit: 100 });
    }

    proptest! {
        //
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), strict: bool) {
            let header = if strict { HeaderRule::Required } else { HeaderRule::Tolerant };
            let rules = FrameRules { max_message: 256, header };
            let read = decode::<ServerToAgent>(&bytes, rules);
            let refused = matches!(read, Err(FrameError::TooLarge { .. }));
            prop_assert_eq!(bytes.len() > 256, refused);
        }

        #[test]
        fn damaged_messages_do_not_panic(at in 0_usize..60, flip in 1_u8.., cut in 0_usize..60) {
            let mut bytes = encode(&offer(), MAX_MESSAGE_DEFAULT).unwrap();
            let length = bytes.len();
            bytes[at % length] ^= flip;
            bytes.truncate(length - cut % length);
            // Either outcome is right; what matters is that there is one.
            let _outcome = decode::<ServerToAgent>(&bytes, FrameRules::default());
        }

        #[test]
        fn what_is_encoded_decodes_to_the_same(
            capability in ".{0,20}",
            data in proptest::collection::vec(any::<u8>(), 0..200),
            sequence_num: u64,
            header: bool,
        ) {
            let message = AgentToServer {
                sequence_num,
                custom_message: Some(CustomMessage { capability, r#type: String::new(), data }),
                ..AgentToServer::default()
            };
            let bytes = if header {
                encode(&message, MAX_MESSAGE_DEFAULT).unwrap()
            } else {
                message.to_wire()
            };
            prop_assert_eq!(decode::<AgentToServer>(&bytes, FrameRules::default()).unwrap(), message);
        }
    }
}
