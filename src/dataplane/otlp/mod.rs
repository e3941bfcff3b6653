//! Requests of OTLP as bytes: checked, taken apart into single records, and put together again.
//!
//! Promises: a record keeps the very bytes it came with, and so do its resource, its scope and its metric, fields that
//! are newer than us included; what is taken apart and put together says the same; any input ends with records or
//! with a sentence, in memory bounded by its size.
//! Must never: change a value, add one, or look at what a value means.

mod json;
mod schema;
mod wire;

use std::sync::Arc;

pub(crate) use json::{print, print_answer, transcode};
use schema::Message;
use wire::{Fields, Value, put_bytes, put_nested, put_tag, put_varint};

use super::record::Signal;

/// Why a body is no OTLP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// It ends inside a value.
    #[error("it ends inside a value")]
    Short,
    /// No field begins so.
    #[error("a field has a tag that there is not")]
    Tag,
    /// A number of more than 64 bits.
    #[error("a number has more than 64 bits")]
    Number,
    /// Too much nesting.
    #[error("values are nested too deeply")]
    Deep,
    /// A text that is none.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
    /// An id of another length.
    #[error("{0} has the wrong length")]
    Id(&'static str),
    /// A value of another type.
    #[error("{0} is of the wrong type")]
    Kind(&'static str),
    /// It is not this JSON.
    #[error("{0}")]
    Json(String),
    /// Too many parts.
    #[error("it has more than {0} records")]
    Many(usize),
    /// Larger in protobuf than allowed.
    #[error("it is larger than {0} bytes")]
    Large(usize),
}

/// Where the parts of a signal's request are.
#[derive(Debug)]
struct Shape {
    request: &'static Message,
    resource: &'static Message,
    scope: &'static Message,
    item: &'static Message,
    /// The name of one item in what people read.
    word: &'static str,
}

fn shape(signal: Signal) -> Shape {
    match signal {
        Signal::Logs => Shape {
            request: &schema::LOGS,
            resource: &schema::RESOURCE_LOGS,
            scope: &schema::SCOPE_LOGS,
            item: &schema::LOG,
            word: "logRecord",
        },
        Signal::Metrics => Shape {
            request: &schema::METRICS,
            resource: &schema::RESOURCE_METRICS,
            scope: &schema::SCOPE_METRICS,
            item: &schema::METRIC,
            word: "metric",
        },
        Signal::Traces => Shape {
            request: &schema::TRACES,
            resource: &schema::RESOURCE_SPANS,
            scope: &schema::SCOPE_SPANS,
            item: &schema::SPAN,
            word: "span",
        },
    }
}

/// The request holds its resources, a resource its scopes, a scope its items, all in these fields.
const RESOURCES: u32 = 1;
const SCOPES: u32 = 2;
const ITEMS: u32 = 2;
/// The fields of a metric that hold its points: gauge, sum, histogram, exponential histogram, summary.
const DATA: [u32; 5] = [5, 7, 9, 10, 11];
/// The points, in each of them.
const POINTS: u32 = 1;

/// One log record, one span or one data point, with what stands around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtlpRecord {
    /// What it is.
    pub(crate) signal: Signal,
    /// What stands around it; shared with its neighbours.
    pub(crate) origin: Arc<Origin>,
    /// Its own message.
    pub(crate) bytes: Box<[u8]>,
}

/// What stands around a record: messages without their children.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// `ResourceLogs`, `ResourceMetrics` or `ResourceSpans` without its scopes.
    pub(crate) resource: Arc<[u8]>,
    /// `ScopeLogs`, `ScopeMetrics` or `ScopeSpans` without its items.
    pub(crate) scope: Arc<[u8]>,
    /// The metric of a data point.
    pub(crate) metric: Option<MetricHead>,
    /// Bytes of all this that each of the records around it accounts for.
    share: usize,
}

/// A metric without its points.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetricHead {
    /// `Metric` without its data.
    pub(crate) metric: Box<[u8]>,
    /// The field of the data: what kind of metric it is.
    pub(crate) field: u32,
    /// `Gauge`, `Sum` … without its points.
    pub(crate) data: Box<[u8]>,
}

impl OtlpRecord {
    /// Bytes it holds beside its own size.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.len() + self.origin.share
    }
}

/// Takes a request of at most `max` records apart.
///
/// # Errors
/// It is not a request of this signal, or a larger one.
pub(crate) fn split(
    signal: Signal,
    request: &[u8],
    max: usize,
) -> Result<Vec<OtlpRecord>, Malformed> {
    wire::check(shape(signal).request, request)?;
    let mut records = Vec::new();
    let children = |message, number| children(message, number, max);
    for resource in children(request, RESOURCES)? {
        let head: Arc<[u8]> = without(resource, &[SCOPES])?.into();
        for scope in children(resource, SCOPES)? {
            let scope_head: Arc<[u8]> = without(scope, &[ITEMS])?.into();
            let items = children(scope, ITEMS)?;
            let around = Around {
                signal,
                resource: &head,
                scope: &scope_head,
                max,
            };
            if signal == Signal::Metrics {
                for metric in items {
                    around.points(metric, &mut records)?;
                }
            } else {
                around.all(None, &items, &mut records)?;
            }
        }
    }
    Ok(records)
}

/// A scope that is being taken apart.
struct Around<'a> {
    signal: Signal,
    resource: &'a Arc<[u8]>,
    scope: &'a Arc<[u8]>,
    max: usize,
}

impl Around<'_> {
    fn points(&self, metric: &[u8], records: &mut Vec<OtlpRecord>) -> Result<(), Malformed> {
        let head = without(metric, &DATA)?;
        for field in DATA {
            for data in children(metric, field, self.max)? {
                let around = MetricHead {
                    metric: head.clone().into(),
                    field,
                    data: without(data, &[POINTS])?.into(),
                };
                self.all(Some(around), &children(data, POINTS, self.max)?, records)?;
            }
        }
        Ok(())
    }

    fn all(
        &self,
        metric: Option<MetricHead>,
        items: &[&[u8]],
        records: &mut Vec<OtlpRecord>,
    ) -> Result<(), Malformed> {
        if items.is_empty() {
            return Ok(());
        }
        if records.len() + items.len() > self.max {
            return Err(Malformed::Many(self.max));
        }
        let metric_bytes = metric.as_ref().map_or(0, |head| {
            size_of::<MetricHead>() + head.metric.len() + head.data.len()
        });
        let shared = size_of::<Origin>() + self.resource.len() + self.scope.len() + metric_bytes;
        let origin = Arc::new(Origin {
            resource: Arc::clone(self.resource),
            scope: Arc::clone(self.scope),
            metric,
            share: shared.div_ceil(items.len()),
        });
        records.extend(items.iter().map(|bytes| OtlpRecord {
            signal: self.signal,
            origin: Arc::clone(&origin),
            bytes: (*bytes).into(),
        }));
        Ok(())
    }
}

/// The messages in one field, at most so many.
fn children(message: &[u8], number: u32, max: usize) -> Result<Vec<&[u8]>, Malformed> {
    let mut found = Vec::new();
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        if let Value::Bytes(bytes) = field.value
            && field.number == number
        {
            if found.len() >= max {
                return Err(Malformed::Many(max));
            }
            found.push(bytes);
        }
    }
    Ok(found)
}

/// A message without some of its fields.
fn without(message: &[u8], numbers: &[u32]) -> Result<Vec<u8>, Malformed> {
    let mut rest = Vec::new();
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        if !numbers.contains(&field.number) {
            rest.extend_from_slice(field.raw);
        }
    }
    Ok(rest)
}

/// Puts records of one signal together again, neighbours under one resource, scope and metric where they were.
pub(crate) fn join(records: &[&OtlpRecord]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.iter().map(|record| record.bytes.len() + 64).sum());
    for resource in records.chunk_by(|a, b| a.origin.resource == b.origin.resource) {
        nest(&mut out, RESOURCES, |out| {
            out.extend_from_slice(head(resource, |origin| &origin.resource));
            for scope in resource.chunk_by(|a, b| a.origin.scope == b.origin.scope) {
                nest(out, SCOPES, |out| {
                    out.extend_from_slice(head(scope, |origin| &origin.scope));
                    for metric in scope.chunk_by(|a, b| a.origin.metric == b.origin.metric) {
                        join_items(metric, out);
                    }
                });
            }
        });
    }
    out
}

fn head<'a>(records: &[&'a OtlpRecord], part: fn(&'a Origin) -> &'a [u8]) -> &'a [u8] {
    records.first().map_or(&[], |record| part(&record.origin))
}

fn join_items(records: &[&OtlpRecord], out: &mut Vec<u8>) {
    let all = |out: &mut Vec<u8>, number| {
        for record in records {
            put_bytes(out, number, &record.bytes);
        }
    };
    match records
        .first()
        .and_then(|record| record.origin.metric.as_ref())
    {
        None => all(out, ITEMS),
        Some(around) => nest(out, ITEMS, |out| {
            out.extend_from_slice(&around.metric);
            nest(out, around.field, |out| {
                out.extend_from_slice(&around.data);
                all(out, POINTS);
            });
        }),
    }
}

fn nest(out: &mut Vec<u8>, number: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let filled: Result<(), std::convert::Infallible> = put_nested(out, number, |out| {
        fill(out);
        Ok(())
    });
    match filled {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

/// The answer to a request that was taken, but for so many of its records.
pub(crate) fn answer(rejected: u64, why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if rejected > 0 {
        nest(&mut out, 1, |out| {
            put_tag(out, 1, 0);
            put_varint(out, rejected);
            put_bytes(out, 2, why.as_bytes());
        });
    }
    out
}

/// The body of a refusal: `google.rpc.Status`.
pub(crate) fn status(code: u32, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_tag(&mut out, 1, 0);
    put_varint(&mut out, u64::from(code));
    put_bytes(&mut out, 2, message.as_bytes());
    out
}

#[cfg(test)]
pub(super) mod samples;
#[cfg(test)]
mod tests;
