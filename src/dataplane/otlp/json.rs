//! The JSON form of OTLP, by the same table as its protobuf.
//!
//! Promises: reading streams, so that memory is bounded by the size of what is written; 64-bit numbers are taken as
//! text or number, ids as hexadecimal, bytes as base64, keys in lower camel case; unknown keys and nulls are skipped,
//! as the protocol asks; an unknown word for an enumeration is an error, because it would become another value.
//! Must never: build the tree of a text that a stranger wrote.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use super::schema::{Field, Kind, Message};
use super::wire::{Fields, Value, put_bytes, put_nested, put_tag, put_varint, scalar};
use super::{Malformed, OtlpRecord, shape};
use crate::dataplane::record::Signal;

/// Writes a request in JSON as protobuf of at most `max` bytes.
///
/// # Errors
/// It is no JSON, or not that of this signal.
pub(crate) fn transcode(signal: Signal, text: &[u8], max: usize) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let body = Body {
        message: shape(signal).request,
        out: &mut out,
        max,
    };
    let read = reader.deserialize_map(body).and_then(|()| reader.end());
    match read {
        Ok(()) => Ok(out),
        Err(_) if out.len() > max => Err(Malformed::Large(max)),
        Err(error) => Err(Malformed::Json(error.to_string())),
    }
}

/// The members of one object.
struct Body<'o> {
    message: &'static Message,
    out: &'o mut Vec<u8>,
    max: usize,
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match self.message.by_name(&key) {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(field) => map.next_value_seed(Slot {
                    field,
                    place: Place::Member,
                    out: self.out,
                    max: self.max,
                })?,
            }
            if self.out.len() > self.max {
                return Err(A::Error::custom("too large"));
            }
        }
        Ok(())
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Under its key.
    Member,
    /// In a list under its key.
    Listed,
    /// In a list of numbers, which share one tag.
    Packed,
}

/// The value of one field.
struct Slot<'o> {
    field: &'static Field,
    place: Place,
    out: &'o mut Vec<u8>,
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl Slot<'_> {
    fn wrong<E: serde::de::Error>(&self) -> E {
        E::custom(format_args!(
            "{}: a value of the wrong type",
            self.field.name
        ))
    }

    /// Whether a value that is no list may stand here.
    fn single<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.field.many && self.place == Place::Member {
            return Err(E::custom(format_args!(
                "{}: a list belongs here",
                self.field.name
            )));
        }
        Ok(())
    }

    fn tag(&mut self) {
        if self.place != Place::Packed {
            put_tag(self.out, self.field.number, self.field.kind.wire_type());
        }
    }

    fn varint(mut self, value: u64) {
        self.tag();
        put_varint(self.out, value);
    }

    fn fixed64(mut self, value: u64) {
        self.tag();
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the check stands before it"
    )]
    #[expect(clippy::cast_sign_loss, reason = "the wire form of a negative number")]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a float belongs there and a whole number was written"
    )]
    fn whole<E: serde::de::Error>(mut self, value: i128) -> Result<(), E> {
        self.single()?;
        let (min, max) = match self.field.kind {
            Kind::Int32 | Kind::Sint32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
            Kind::Uint32 | Kind::Fixed32 => (0, i128::from(u32::MAX)),
            Kind::Int64 | Kind::Sfixed64 => (i128::from(i64::MIN), i128::from(i64::MAX)),
            Kind::Uint64 | Kind::Fixed64 => (0, i128::from(u64::MAX)),
            Kind::Double => return self.float(value as f64),
            _ => return Err(self.wrong()),
        };
        if !(min..=max).contains(&value) {
            return Err(E::custom(format_args!(
                "{}: {value} is out of range",
                self.field.name
            )));
        }
        match self.field.kind {
            Kind::Sint32 => {
                let value = value as i64;
                self.varint(((value << 1) ^ (value >> 63)) as u64 & u64::from(u32::MAX));
            }
            Kind::Fixed32 => {
                self.tag();
                self.out.extend_from_slice(&(value as u32).to_le_bytes());
            }
            Kind::Fixed64 | Kind::Sfixed64 => self.fixed64(value as u64),
            // A negative number is sign-extended to 64 bits.
            _ => self.varint(value as i64 as u64),
        }
        Ok(())
    }

    fn float<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.single()?;
        if !matches!(self.field.kind, Kind::Double) {
            return Err(self.wrong());
        }
        self.fixed64(value.to_bits());
        Ok(())
    }

    fn bytes(self, bytes: &[u8]) {
        put_bytes(self.out, self.field.number, bytes);
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value of {}", self.field.name)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if self.place == Place::Member {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.single()?;
        if !matches!(self.field.kind, Kind::Bool) {
            return Err(self.wrong());
        }
        self.varint(u64::from(value));
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.whole(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.whole(value.into())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a whole number of at most 2^53, checked"
    )]
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        /// Up to here a float is exactly one whole number.
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        if matches!(self.field.kind, Kind::Double)
            || value.fract() != 0.0
            || value.abs() > EXACT_MAX
        {
            return self.float(value);
        }
        self.whole(value as i128)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.single()?;
        let unreadable = |what: &str| {
            E::custom(format_args!(
                "{}: a text that is no {what}",
                self.field.name
            ))
        };
        match self.field.kind {
            Kind::Text => self.bytes(text.as_bytes()),
            Kind::Id(length) => {
                let bytes = unhex(text).ok_or_else(|| unreadable("hexadecimal"))?;
                if !bytes.is_empty() && bytes.len() != length {
                    return Err(unreadable("id of the right length"));
                }
                self.bytes(&bytes);
            }
            Kind::Bytes => {
                let bytes = unbase64(text).ok_or_else(|| unreadable("base64"))?;
                self.bytes(&bytes);
            }
            Kind::Double => {
                let value = match text {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    _ => text
                        .parse()
                        .ok()
                        .filter(|value: &f64| value.is_finite())
                        .ok_or_else(|| unreadable("number"))?,
                };
                return self.float(value);
            }
            kind if kind.is_number() && !matches!(kind, Kind::Bool) => {
                let value = text
                    .parse::<i128>()
                    .map_err(|_| unreadable("whole number"))?;
                return self.whole(value);
            }
            _ => return Err(self.wrong()),
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.single()?;
        let Kind::Message(message) = self.field.kind else {
            return Err(self.wrong());
        };
        let max = self.max;
        put_nested(self.out, self.field.number, |out| {
            Body { message, out, max }.visit_map(map)
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.field.many || self.place != Place::Member {
            return Err(self.wrong());
        }
        let (field, max) = (self.field, self.max);
        let mut all = |out: &mut Vec<u8>, place| {
            while list
                .next_element_seed(Slot {
                    field,
                    place,
                    out: &mut *out,
                    max,
                })?
                .is_some()
            {
                if out.len() > max {
                    return Err(A::Error::custom("too large"));
                }
            }
            Ok(())
        };
        if field.kind.is_number() {
            put_nested(self.out, field.number, |out| all(out, Place::Packed))
        } else {
            all(self.out, Place::Listed)
        }
    }
}

/// One record as people read it: its own JSON, with that of its scope and resource.
pub(crate) fn print(record: &OtlpRecord) -> Map<String, Json> {
    let shape = shape(record.signal);
    let part = |message: &'static Message, bytes: &[u8], name: &str| {
        object(message, bytes).remove(name).unwrap_or_default()
    };
    let mut line = Map::new();
    let origin = &record.origin;
    let item = match &origin.metric {
        None => Json::Object(object(shape.item, &record.bytes)),
        Some(around) => {
            let mut metric = object(shape.item, &around.metric);
            let field = shape.item.by_number(around.field);
            if let Some((field, Kind::Message(data))) = field.map(|field| (field, field.kind)) {
                let mut body = object(data, &around.data);
                if let Some(points) = data.by_number(super::POINTS)
                    && let Kind::Message(point) = points.kind
                {
                    let point = Json::Object(object(point, &record.bytes));
                    body.insert(points.name.to_owned(), Json::Array(vec![point]));
                }
                metric.insert(field.name.to_owned(), Json::Object(body));
            }
            Json::Object(metric)
        }
    };
    line.insert(shape.word.to_owned(), item);
    line.insert(
        "scope".to_owned(),
        part(shape.scope, &origin.scope, "scope"),
    );
    line.insert(
        "resource".to_owned(),
        part(shape.resource, &origin.resource, "resource"),
    );
    line
}

/// The members of a message. One that passed the check never ends early.
fn object(message: &Message, bytes: &[u8]) -> Map<String, Json> {
    let mut map = Map::new();
    let mut fields = Fields::of(bytes);
    while let Ok(Some(found)) = fields.next() {
        let Some(field) = message.by_number(found.number) else {
            continue;
        };
        if !field.many {
            map.insert(field.name.to_owned(), value(field.kind, found.value));
            continue;
        }
        let list = map
            .entry(field.name)
            .or_insert_with(|| Json::Array(Vec::new()));
        let Json::Array(list) = list else { continue };
        match found.value {
            Value::Bytes(mut rest) if field.kind.is_number() => {
                while !rest.is_empty()
                    && let Ok(one) = scalar(field.kind, &mut rest)
                {
                    list.push(value(field.kind, one));
                }
            }
            one => list.push(value(field.kind, one)),
        }
    }
    map
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the wire form holds more bits than the type"
)]
#[expect(
    clippy::cast_possible_wrap,
    reason = "the wire form of a negative number"
)]
fn value(kind: Kind, value: Value<'_>) -> Json {
    match (kind, value) {
        (Kind::Message(message), Value::Bytes(bytes)) => Json::Object(object(message, bytes)),
        (Kind::Text, Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into(),
        (Kind::Id(_), Value::Bytes(bytes)) => hex(bytes).into(),
        (Kind::Bytes, Value::Bytes(bytes)) => base64(bytes).into(),
        (Kind::Bool, Value::Varint(bits)) => (bits != 0).into(),
        (Kind::Int32, Value::Varint(bits)) => (bits as i32).into(),
        (Kind::Uint32, Value::Varint(bits)) => (bits as u32).into(),
        (Kind::Sint32, Value::Varint(bits)) => {
            let bits = bits as u32;
            (((bits >> 1) as i32) ^ -((bits & 1) as i32)).into()
        }
        (Kind::Fixed32, Value::Fixed32(bits)) => bits.into(),
        (Kind::Uint64, Value::Varint(bits)) | (Kind::Fixed64, Value::Fixed64(bits)) => {
            bits.to_string().into()
        }
        (Kind::Int64, Value::Varint(bits)) | (Kind::Sfixed64, Value::Fixed64(bits)) => {
            (bits as i64).to_string().into()
        }
        (Kind::Double, Value::Fixed64(bits)) => {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                value.into()
            } else if value.is_nan() {
                "NaN".into()
            } else if value > 0.0 {
                "Infinity".into()
            } else {
                "-Infinity".into()
            }
        }
        _ => Json::Null,
    }
}

/// The answer to a request that was taken, but for so many of its records.
pub(crate) fn print_answer(signal: Signal, rejected: u64, why: &str) -> String {
    if rejected == 0 {
        return "{}".to_owned();
    }
    let count = match signal {
        Signal::Logs => "rejectedLogRecords",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Traces => "rejectedSpans",
    };
    serde_json::json!({"partialSuccess": {count: rejected.to_string(), "errorMessage": why}})
        .to_string()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |bits: u8| char::from_digit(u32::from(bits), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .collect()
}

/// Both alphabets, padded or not.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    (count < 6).then_some(out)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut bits = 0_u32;
        for index in 0..3 {
            bits = bits << 8 | three.get(index).copied().map_or(0, u32::from);
        }
        for index in 0..4 {
            let six = (bits >> (18 - 6 * index) & 0x3f) as usize;
            let digit = ALPHABET.get(six).copied().unwrap_or(b'=');
            out.push(if index > three.len() {
                '='
            } else {
                digit.into()
            });
        }
    }
    out
}
