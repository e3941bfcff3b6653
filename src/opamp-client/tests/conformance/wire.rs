//! A second reading of our bytes: protobuf walked by hand, without the generated code.
//!
//! Promises: says which fields a message holds and refuses whatever the published schema does not have, fields
//! that occur twice and bytes that end early. Must never: name a type of the crate.

use std::collections::BTreeMap;

/// Numbers of the fields of `AgentToServer`.
pub(crate) const UID: u32 = 1;
pub(crate) const SEQUENCE: u32 = 2;
pub(crate) const DESCRIPTION: u32 = 3;
pub(crate) const CAPABILITIES: u32 = 4;
pub(crate) const HEALTH: u32 = 5;
pub(crate) const EFFECTIVE: u32 = 6;
pub(crate) const REMOTE: u32 = 7;
pub(crate) const PACKAGES: u32 = 8;
pub(crate) const GOODBYE: u32 = 9;
pub(crate) const CUSTOM: u32 = 12;
pub(crate) const COMPONENTS: u32 = 14;
pub(crate) const SETTINGS: u32 = 15;

/// The highest of them.
const LAST: u32 = SETTINGS;

/// One value as it stands on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of one `AgentToServer`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report(BTreeMap<u32, Value>);

impl Report {
    /// Reads bare protobuf.
    pub(crate) fn read(mut bytes: &[u8]) -> Result<Self, String> {
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let (field, value) = next(&mut bytes)?;
            if field == 0 || field > LAST {
                return Err(format!("field {field} is not in the schema"));
            }
            if fields.insert(field, value).is_some() {
                return Err(format!("field {field} occurs twice"));
            }
        }
        Ok(Self(fields))
    }

    pub(crate) fn has(&self, field: u32) -> bool {
        self.0.contains_key(&field)
    }

    /// A number; an absent one is zero, as in the schema.
    pub(crate) fn number(&self, field: u32) -> u64 {
        match self.0.get(&field) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    pub(crate) fn bytes(&self, field: u32) -> &[u8] {
        match self.0.get(&field) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// Which state it reports; empty for a heartbeat or a poll.
    pub(crate) fn told(&self) -> Vec<u32> {
        let header = [UID, SEQUENCE, CAPABILITIES];
        self.0
            .keys()
            .copied()
            .filter(|field| !header.contains(field))
            .collect()
    }
}

fn next(bytes: &mut &[u8]) -> Result<(u32, Value), String> {
    let key = varint(bytes)?;
    let field = u32::try_from(key >> 3).map_err(|_| format!("tag {key}"))?;
    let value = match key & 7 {
        0 => Value::Number(varint(bytes)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).map_err(|error| error.to_string())?;
            let (head, rest) = bytes
                .split_at_checked(length)
                .ok_or_else(|| format!("field {field} ends early"))?;
            *bytes = rest;
            Value::Bytes(head.to_vec())
        }
        other => return Err(format!("field {field} has wire type {other}")),
    };
    Ok((field, value))
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or("a number ends early")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than ten bytes".to_owned())
}

#[test]
fn what_the_schema_lacks_is_seen() {
    let report = Report::read(&[0x0A, 1, 7, 0x10, 0x80, 1, 0x4A, 0]).unwrap();
    assert_eq!(report.bytes(UID), [7]);
    assert_eq!(report.number(SEQUENCE), 128);
    assert_eq!(report.told(), [GOODBYE]);
    for (bytes, wanted) in [
        (&[0x82, 1, 0][..], "field 16 is not in the schema"),
        (&[0x10, 1, 0x10, 1], "field 2 occurs twice"),
        (&[0x0A, 2, 7], "field 1 ends early"),
        (&[0x10, 0x80], "a number ends early"),
        (&[0x11], "field 2 has wire type 1"),
    ] {
        assert_eq!(Report::read(bytes).unwrap_err(), wanted);
    }
}
