//! The messages of OTLP as a table: what a field is called, which number it has, and what belongs into it.
//!
//! Promises: one table serves the check of protobuf, the reading of JSON and the printing of JSON, so that they cannot
//! disagree; a test holds it against the generated types.
//! Must never: hold code that acts.

/// A message and its fields.
#[derive(Debug)]
pub(crate) struct Message {
    pub(super) fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// Its name in JSON.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) many: bool,
}

/// What belongs into a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Message(&'static Message),
    Text,
    Bytes,
    /// Bytes of exactly this length, or none; hexadecimal in JSON.
    Id(usize),
    Bool,
    /// 32 bits with a sign, enumerations included.
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Fixed32,
    Fixed64,
    Sfixed64,
    Double,
}

impl Message {
    pub(super) fn by_number(&self, number: u32) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.number == number)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        many: false,
    }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        many: true,
    }
}

use Kind::{
    Bool, Bytes, Double, Fixed32, Fixed64, Id, Int32, Int64, Message as Sub, Sfixed64, Sint32,
    Text, Uint32, Uint64,
};

const TRACE_ID: Kind = Id(16);
const SPAN_ID: Kind = Id(8);

static ANY: Message = Message {
    fields: &[
        one(1, "stringValue", Text),
        one(2, "boolValue", Bool),
        one(3, "intValue", Int64),
        one(4, "doubleValue", Double),
        one(5, "arrayValue", Sub(&ARRAY)),
        one(6, "kvlistValue", Sub(&PAIRS)),
        one(7, "bytesValue", Bytes),
    ],
};
static ARRAY: Message = Message {
    fields: &[many(1, "values", Sub(&ANY))],
};
static PAIRS: Message = Message {
    fields: &[many(1, "values", Sub(&PAIR))],
};
static PAIR: Message = Message {
    fields: &[one(1, "key", Text), one(2, "value", Sub(&ANY))],
};
static SCOPE: Message = Message {
    fields: &[
        one(1, "name", Text),
        one(2, "version", Text),
        many(3, "attributes", Sub(&PAIR)),
        one(4, "droppedAttributesCount", Uint32),
    ],
};
static ENTITY: Message = Message {
    fields: &[
        one(1, "schemaUrl", Text),
        one(2, "type", Text),
        many(3, "idKeys", Text),
        many(4, "descriptionKeys", Text),
    ],
};
static RESOURCE: Message = Message {
    fields: &[
        many(1, "attributes", Sub(&PAIR)),
        one(2, "droppedAttributesCount", Uint32),
        many(3, "entityRefs", Sub(&ENTITY)),
    ],
};

/// `ExportLogsServiceRequest`.
pub(super) static LOGS: Message = Message {
    fields: &[many(1, "resourceLogs", Sub(&RESOURCE_LOGS))],
};
/// `ResourceLogs`.
pub(super) static RESOURCE_LOGS: Message = Message {
    fields: &[
        one(1, "resource", Sub(&RESOURCE)),
        many(2, "scopeLogs", Sub(&SCOPE_LOGS)),
        one(3, "schemaUrl", Text),
    ],
};
/// `ScopeLogs`.
pub(super) static SCOPE_LOGS: Message = Message {
    fields: &[
        one(1, "scope", Sub(&SCOPE)),
        many(2, "logRecords", Sub(&LOG)),
        one(3, "schemaUrl", Text),
    ],
};
/// `LogRecord`.
pub(super) static LOG: Message = Message {
    fields: &[
        one(1, "timeUnixNano", Fixed64),
        one(2, "severityNumber", Int32),
        one(3, "severityText", Text),
        one(5, "body", Sub(&ANY)),
        many(6, "attributes", Sub(&PAIR)),
        one(7, "droppedAttributesCount", Uint32),
        one(8, "flags", Fixed32),
        one(9, "traceId", TRACE_ID),
        one(10, "spanId", SPAN_ID),
        one(11, "observedTimeUnixNano", Fixed64),
        one(12, "eventName", Text),
    ],
};

/// `ExportTraceServiceRequest`.
pub(super) static TRACES: Message = Message {
    fields: &[many(1, "resourceSpans", Sub(&RESOURCE_SPANS))],
};
/// `ResourceSpans`.
pub(super) static RESOURCE_SPANS: Message = Message {
    fields: &[
        one(1, "resource", Sub(&RESOURCE)),
        many(2, "scopeSpans", Sub(&SCOPE_SPANS)),
        one(3, "schemaUrl", Text),
    ],
};
/// `ScopeSpans`.
pub(super) static SCOPE_SPANS: Message = Message {
    fields: &[
        one(1, "scope", Sub(&SCOPE)),
        many(2, "spans", Sub(&SPAN)),
        one(3, "schemaUrl", Text),
    ],
};
/// `Span`.
pub(super) static SPAN: Message = Message {
    fields: &[
        one(1, "traceId", TRACE_ID),
        one(2, "spanId", SPAN_ID),
        one(3, "traceState", Text),
        one(4, "parentSpanId", SPAN_ID),
        one(5, "name", Text),
        one(6, "kind", Int32),
        one(7, "startTimeUnixNano", Fixed64),
        one(8, "endTimeUnixNano", Fixed64),
        many(9, "attributes", Sub(&PAIR)),
        one(10, "droppedAttributesCount", Uint32),
        many(11, "events", Sub(&SPAN_EVENT)),
        one(12, "droppedEventsCount", Uint32),
        many(13, "links", Sub(&SPAN_LINK)),
        one(14, "droppedLinksCount", Uint32),
        one(15, "status", Sub(&SPAN_STATUS)),
        one(16, "flags", Fixed32),
    ],
};
static SPAN_EVENT: Message = Message {
    fields: &[
        one(1, "timeUnixNano", Fixed64),
        one(2, "name", Text),
        many(3, "attributes", Sub(&PAIR)),
        one(4, "droppedAttributesCount", Uint32),
    ],
};
static SPAN_LINK: Message = Message {
    fields: &[
        one(1, "traceId", TRACE_ID),
        one(2, "spanId", SPAN_ID),
        one(3, "traceState", Text),
        many(4, "attributes", Sub(&PAIR)),
        one(5, "droppedAttributesCount", Uint32),
        one(6, "flags", Fixed32),
    ],
};
static SPAN_STATUS: Message = Message {
    fields: &[one(2, "message", Text), one(3, "code", Int32)],
};

/// `ExportMetricsServiceRequest`.
pub(super) static METRICS: Message = Message {
    fields: &[many(1, "resourceMetrics", Sub(&RESOURCE_METRICS))],
};
/// `ResourceMetrics`.
pub(super) static RESOURCE_METRICS: Message = Message {
    fields: &[
        one(1, "resource", Sub(&RESOURCE)),
        many(2, "scopeMetrics", Sub(&SCOPE_METRICS)),
        one(3, "schemaUrl", Text),
    ],
};
/// `ScopeMetrics`.
pub(super) static SCOPE_METRICS: Message = Message {
    fields: &[
        one(1, "scope", Sub(&SCOPE)),
        many(2, "metrics", Sub(&METRIC)),
        one(3, "schemaUrl", Text),
    ],
};
/// `Metric`.
pub(super) static METRIC: Message = Message {
    fields: &[
        one(1, "name", Text),
        one(2, "description", Text),
        one(3, "unit", Text),
        one(5, "gauge", Sub(&GAUGE)),
        one(7, "sum", Sub(&SUM)),
        one(9, "histogram", Sub(&HISTOGRAM)),
        one(10, "exponentialHistogram", Sub(&EXPONENTIAL)),
        one(11, "summary", Sub(&SUMMARY)),
        many(12, "metadata", Sub(&PAIR)),
    ],
};
static GAUGE: Message = Message {
    fields: &[many(1, "dataPoints", Sub(&NUMBER_POINT))],
};
static SUM: Message = Message {
    fields: &[
        many(1, "dataPoints", Sub(&NUMBER_POINT)),
        one(2, "aggregationTemporality", Int32),
        one(3, "isMonotonic", Bool),
    ],
};
static HISTOGRAM: Message = Message {
    fields: &[
        many(1, "dataPoints", Sub(&HISTOGRAM_POINT)),
        one(2, "aggregationTemporality", Int32),
    ],
};
static EXPONENTIAL: Message = Message {
    fields: &[
        many(1, "dataPoints", Sub(&EXPONENTIAL_POINT)),
        one(2, "aggregationTemporality", Int32),
    ],
};
static SUMMARY: Message = Message {
    fields: &[many(1, "dataPoints", Sub(&SUMMARY_POINT))],
};
static NUMBER_POINT: Message = Message {
    fields: &[
        one(2, "startTimeUnixNano", Fixed64),
        one(3, "timeUnixNano", Fixed64),
        one(4, "asDouble", Double),
        many(5, "exemplars", Sub(&EXEMPLAR)),
        one(6, "asInt", Sfixed64),
        many(7, "attributes", Sub(&PAIR)),
        one(8, "flags", Uint32),
    ],
};
static HISTOGRAM_POINT: Message = Message {
    fields: &[
        one(2, "startTimeUnixNano", Fixed64),
        one(3, "timeUnixNano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        many(6, "bucketCounts", Fixed64),
        many(7, "explicitBounds", Double),
        many(8, "exemplars", Sub(&EXEMPLAR)),
        many(9, "attributes", Sub(&PAIR)),
        one(10, "flags", Uint32),
        one(11, "min", Double),
        one(12, "max", Double),
    ],
};
static EXPONENTIAL_POINT: Message = Message {
    fields: &[
        many(1, "attributes", Sub(&PAIR)),
        one(2, "startTimeUnixNano", Fixed64),
        one(3, "timeUnixNano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        one(6, "scale", Sint32),
        one(7, "zeroCount", Fixed64),
        one(8, "positive", Sub(&BUCKETS)),
        one(9, "negative", Sub(&BUCKETS)),
        one(10, "flags", Uint32),
        many(11, "exemplars", Sub(&EXEMPLAR)),
        one(12, "min", Double),
        one(13, "max", Double),
        one(14, "zeroThreshold", Double),
    ],
};
static BUCKETS: Message = Message {
    fields: &[one(1, "offset", Sint32), many(2, "bucketCounts", Uint64)],
};
static SUMMARY_POINT: Message = Message {
    fields: &[
        one(2, "startTimeUnixNano", Fixed64),
        one(3, "timeUnixNano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        many(6, "quantileValues", Sub(&QUANTILE)),
        many(7, "attributes", Sub(&PAIR)),
        one(8, "flags", Uint32),
    ],
};
static QUANTILE: Message = Message {
    fields: &[one(1, "quantile", Double), one(2, "value", Double)],
};
static EXEMPLAR: Message = Message {
    fields: &[
        one(2, "timeUnixNano", Fixed64),
        one(3, "asDouble", Double),
        one(4, "spanId", SPAN_ID),
        one(5, "traceId", TRACE_ID),
        one(6, "asInt", Sfixed64),
        many(7, "filteredAttributes", Sub(&PAIR)),
    ],
};
