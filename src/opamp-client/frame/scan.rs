//! A look at protobuf bytes before they are decoded: how deep, how many fields.
//!
//! Promises: no allocation but a small stack, one pass over the tags, and an end at the first byte over a limit. What
//! is no protobuf is left to the decoder, which gets no further than this came.
//! Must never: look into strings and bytes. Which fields are messages says [`crate::messages::shape`].

use super::{FrameError, varint};
use crate::messages::shape::SHAPES;

/// Levels of messages, the outermost included; map entries count. The decoder has the same limit.
pub(super) const LEVELS_MAX: usize = 100;

/// Fields of a message, all levels together. Thousands of components or files stay far below; two bytes each, a message
/// of 64 MiB could hold 32 million, at some hundred bytes of memory apiece.
pub(super) const FIELDS_MAX: usize = 256 * 1024;

/// A message whose fields are being looked at.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// Bytes that lie behind its end.
    behind: usize,
    /// `None` for what the schema does not know.
    shape: Option<usize>,
    /// Ends with a tag and not with a length.
    group: bool,
}

/// Whether `bytes`, read as the message with this number, keep to the limits.
///
/// # Errors
/// [`FrameError::TooDeep`] or [`FrameError::TooManyFields`].
pub(super) fn check(bytes: &[u8], root: usize) -> Result<(), FrameError> {
    let mut rest = bytes;
    let mut fields = 0_usize;
    let mut open = vec![Open {
        behind: 0,
        shape: Some(root),
        group: false,
    }];
    while let Some(here) = open.last().copied() {
        if !here.group && rest.len() <= here.behind {
            open.pop();
            continue;
        }
        let Some((tag, after)) = varint(rest) else {
            return Ok(());
        };
        rest = after;
        fields = fields.saturating_add(1);
        if fields > FIELDS_MAX {
            return Err(FrameError::TooManyFields { limit: FIELDS_MAX });
        }
        let inner = match tag & 7 {
            0 => {
                let Some((_, after)) = varint(rest) else {
                    return Ok(());
                };
                rest = after;
                None
            }
            1 | 5 => {
                let width = if tag & 7 == 1 { 8 } else { 4 };
                let Some(after) = rest.get(width..) else {
                    return Ok(());
                };
                rest = after;
                None
            }
            2 => {
                let Some((len, after)) = varint(rest) else {
                    return Ok(());
                };
                let Some(behind) = usize::try_from(len)
                    .ok()
                    .and_then(|len| after.len().checked_sub(len))
                else {
                    return Ok(());
                };
                rest = after;
                let shape = message_of(here.shape, tag >> 3);
                if shape.is_none() {
                    // Text, bytes or unknown: stepped over.
                    rest = rest.get(rest.len().saturating_sub(behind)..).unwrap_or(&[]);
                }
                shape.map(|shape| Open {
                    behind,
                    shape: Some(shape),
                    group: false,
                })
            }
            3 => Some(Open {
                behind: here.behind,
                shape: None,
                group: true,
            }),
            4 if here.group => {
                open.pop();
                None
            }
            _ => return Ok(()),
        };
        if let Some(inner) = inner {
            if open.len() >= LEVELS_MAX {
                return Err(FrameError::TooDeep { limit: LEVELS_MAX });
            }
            open.push(inner);
        }
    }
    Ok(())
}

/// The last value of a field of text or bytes, as a decoder would have it; nothing if there is none.
pub(super) fn bytes_field(bytes: &[u8], field: u64) -> &[u8] {
    let mut rest = bytes;
    let mut found: &[u8] = &[];
    while let Some((tag, after)) = varint(rest) {
        rest = match tag & 7 {
            0 => varint(after).map_or(&[][..], |(_, after)| after),
            1 => after.get(8..).unwrap_or_default(),
            5 => after.get(4..).unwrap_or_default(),
            2 => {
                let value = varint(after).and_then(|(len, after)| {
                    let len = usize::try_from(len).ok()?;
                    after.split_at_checked(len)
                });
                let Some((value, after)) = value else {
                    break;
                };
                if tag >> 3 == field {
                    found = value;
                }
                after
            }
            _ => break,
        };
    }
    found
}

/// The message that a field of a message is, if it is one.
fn message_of(shape: Option<usize>, field: u64) -> Option<usize> {
    SHAPES
        .get(shape?)?
        .iter()
        .find(|(number, _)| u64::from(*number) == field)
        .map(|(_, shape)| *shape)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;

    use super::*;
    use crate::frame::{FrameRules, decode, encode};
    use crate::messages::{
        AgentToServer, ComponentHealth, CustomMessage, Header, Headers, OpAmpConnectionSettings,
        ServerToAgent, shape,
    };

    fn health(levels: u32) -> AgentToServer {
        let mut health = ComponentHealth::default();
        for _ in 1..levels {
            let part = ("part".to_owned(), health);
            health = ComponentHealth {
                component_health_map: BTreeMap::from([part]),
                ..ComponentHealth::default()
            };
        }
        AgentToServer {
            health: Some(health),
            ..AgentToServer::default()
        }
    }

    // what passes here passes the decoder, what does not never reaches it.
    #[test]
    fn depth_is_refused_where_the_decoder_would_end_too() {
        let fits = (1..100)
            .take_while(|levels| {
                check(&health(*levels).encode_to_vec(), shape::AGENT_TO_SERVER).is_ok()
            })
            .last()
            .unwrap();
        // The outermost, then two levels for each part but the last.
        assert_eq!(fits, 50);
        let whole = health(fits).encode_to_vec();
        assert_eq!(
            AgentToServer::decode(whole.as_slice()).unwrap(),
            health(fits)
        );
        let frame = encode(&health(fits + 1), usize::MAX).unwrap();
        assert_eq!(
            decode::<AgentToServer>(&frame, FrameRules::default()),
            Err(FrameError::TooDeep { limit: 100 })
        );
    }

    //
    #[test]
    fn fields_are_counted_before_they_take_memory() {
        let offer = |count| ServerToAgent {
            connection_settings: Some(crate::messages::ConnectionSettingsOffers {
                opamp: Some(OpAmpConnectionSettings {
                    headers: Some(Headers {
                        headers: vec![Header::default(); count],
                    }),
                    ..OpAmpConnectionSettings::default()
                }),
                ..crate::messages::ConnectionSettingsOffers::default()
            }),
            ..ServerToAgent::default()
        };
        // Three messages around them.
        let fits = encode(&offer(FIELDS_MAX - 3), usize::MAX).unwrap();
        assert!(decode::<ServerToAgent>(&fits, FrameRules::default()).is_ok());
        let over = encode(&offer(FIELDS_MAX - 2), usize::MAX).unwrap();
        assert_eq!(
            decode::<ServerToAgent>(&over, FrameRules::default()),
            Err(FrameError::TooManyFields { limit: FIELDS_MAX })
        );
    }

    // bytes are opaque, also when they could be read as messages.
    #[test]
    fn opaque_bytes_are_not_looked_into() {
        let data = health(1000).encode_to_vec();
        let message = ServerToAgent {
            custom_message: Some(CustomMessage {
                data: [vec![0; FIELDS_MAX * 2], data].concat(),
                ..CustomMessage::default()
            }),
            ..ServerToAgent::default()
        };
        let frame = encode(&message, usize::MAX).unwrap();
        assert_eq!(decode(&frame, FrameRules::default()), Ok(message));
    }

    // groups are of another time, but they nest.
    #[test]
    fn unknown_groups_are_skipped_and_bounded() {
        let groups = |levels: usize| {
            // Field 30: start group 243, end group 244.
            [[0xF3, 1].repeat(levels), [0xF4, 1].repeat(levels)].concat()
        };
        let check = |levels| check(&groups(levels), shape::SERVER_TO_AGENT);
        assert_eq!(check(99), Ok(()));
        assert_eq!(check(100), Err(FrameError::TooDeep { limit: 100 }));
        assert!(ServerToAgent::decode(groups(50).as_slice()).is_ok());
    }

    #[test]
    fn what_is_no_protobuf_is_left_to_the_decoder() {
        for bytes in [
            &[0x0A][..],
            &[0x0A, 5, 1],
            &[0x08],
            &[0x09, 1, 2],
            &[0x0D, 1],
            &[0x07],
            &[0x0C],
            &[0x80],
            &[
                0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1,
            ],
        ] {
            assert_eq!(check(bytes, shape::SERVER_TO_AGENT), Ok(()));
            assert!(ServerToAgent::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
