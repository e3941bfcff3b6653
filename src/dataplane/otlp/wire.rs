//! The wire form of protobuf: fields in, fields out, and the check of a whole message.
//!
//! Promises: reading allocates nothing and ends on any bytes; a message that passes the check is one that every
//! receiver can read: lengths fit, texts are UTF-8, ids have their length, nesting is bounded; fields that the table
//! does not know are skipped, so that what is newer than us passes.
//! Must never: change a value.

use super::Malformed;
use super::schema::{Kind, Message};

/// Messages inside each other; the generated readers in the field stop at the same depth.
const DEPTH_MAX: usize = 100;

/// One field as it stands in a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) number: u32,
    /// Tag and value.
    pub(super) raw: &'a [u8],
    pub(super) value: Value<'a>,
}

/// A value by its wire type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message in their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field.
    pub(super) fn next(&mut self) -> Result<Option<Found<'a>>, Malformed> {
        let whole = self.rest;
        if whole.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number))
            .ok_or(Malformed::Tag)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut self.rest)?),
            1 => Value::Fixed64(u64::from_le_bytes(fixed(&mut self.rest)?)),
            2 => {
                let length = varint(&mut self.rest)?;
                let length = usize::try_from(length).map_err(|_| Malformed::Short)?;
                Value::Bytes(take(&mut self.rest, length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(fixed(&mut self.rest)?)),
            _ => return Err(Malformed::Tag),
        };
        let used = whole.len() - self.rest.len();
        Ok(Some(Found {
            number,
            raw: whole.get(..used).unwrap_or_default(),
            value,
        }))
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(count).ok_or(Malformed::Short)?;
    *rest = tail;
    Ok(head)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (head, tail) = rest.split_first_chunk().ok_or(Malformed::Short)?;
    *rest = tail;
    Ok(*head)
}

/// Reads one variable-length number.
pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, tail) = rest.split_first().ok_or(Malformed::Short)?;
        *rest = tail;
        let bits = u64::from(first & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(Malformed::Number);
        }
        value |= bits << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::Number)
}

/// Checks a message by its table.
pub(super) fn check(message: &Message, bytes: &[u8]) -> Result<(), Malformed> {
    check_at(message, bytes, DEPTH_MAX)
}

fn check_at(message: &Message, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed::Deep)?;
    let mut fields = Fields::of(bytes);
    while let Some(found) = fields.next()? {
        let Some(field) = message.by_number(found.number) else {
            continue;
        };
        match (field.kind, found.value) {
            (Kind::Message(inner), Value::Bytes(bytes)) => check_at(inner, bytes, depth)?,
            (Kind::Text, Value::Bytes(bytes)) => {
                std::str::from_utf8(bytes).map_err(|_| Malformed::Text(field.name))?;
            }
            (Kind::Id(length), Value::Bytes(bytes)) => {
                if !bytes.is_empty() && bytes.len() != length {
                    return Err(Malformed::Id(field.name));
                }
            }
            (kind, Value::Varint(_)) if kind.is_varint() => {}
            (kind, Value::Fixed64(_)) if kind.is_fixed64() => {}
            (Kind::Bytes, Value::Bytes(_)) | (Kind::Fixed32, Value::Fixed32(_)) => {}
            (kind, Value::Bytes(bytes)) if field.many && kind.is_number() => packed(kind, bytes)?,
            _ => return Err(Malformed::Kind(field.name)),
        }
    }
    Ok(())
}

/// Numbers side by side.
fn packed(kind: Kind, mut bytes: &[u8]) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        scalar(kind, &mut bytes)?;
    }
    Ok(())
}

/// Reads one number of a packed field.
pub(super) fn scalar<'a>(kind: Kind, bytes: &mut &'a [u8]) -> Result<Value<'a>, Malformed> {
    if kind.is_fixed64() {
        fixed(bytes).map(|bytes| Value::Fixed64(u64::from_le_bytes(bytes)))
    } else if matches!(kind, Kind::Fixed32) {
        fixed(bytes).map(|bytes| Value::Fixed32(u32::from_le_bytes(bytes)))
    } else {
        varint(bytes).map(Value::Varint)
    }
}

impl Kind {
    pub(super) const fn is_varint(self) -> bool {
        matches!(
            self,
            Self::Bool | Self::Int32 | Self::Int64 | Self::Uint32 | Self::Uint64 | Self::Sint32
        )
    }

    pub(super) const fn is_fixed64(self) -> bool {
        matches!(self, Self::Fixed64 | Self::Sfixed64 | Self::Double)
    }

    /// Whether several of it are packed into one field.
    pub(super) const fn is_number(self) -> bool {
        self.is_varint() || self.is_fixed64() || matches!(self, Self::Fixed32)
    }

    pub(super) const fn wire_type(self) -> u32 {
        if self.is_varint() {
            0
        } else if self.is_fixed64() {
            1
        } else if matches!(self, Self::Fixed32) {
            5
        } else {
            2
        }
    }
}

/// Writes a variable-length number.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a tag.
pub(super) fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    put_varint(out, u64::from(number << 3 | wire_type));
}

/// Writes a field of bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a field whose bytes `fill` writes.
pub(super) fn put_nested<E>(
    out: &mut Vec<u8>,
    number: u32,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_tag(out, number, 2);
    let start = out.len();
    fill(out)?;
    let mut length = Vec::with_capacity(10);
    put_varint(&mut length, (out.len() - start) as u64);
    out.splice(start..start, length);
    Ok(())
}
