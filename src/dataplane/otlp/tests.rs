//! Requests made with the generated types, taken apart, put together and printed, and what strangers may send instead.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value as Json, json};

use super::samples::{as_json, logs, metrics, traces};
use super::*;

const MANY: usize = 1000;

fn parts(signal: Signal, request: &[u8]) -> Vec<OtlpRecord> {
    split(signal, request, MANY).unwrap()
}

fn whole(records: &[OtlpRecord]) -> Vec<u8> {
    join(&records.iter().collect::<Vec<_>>())
}

#[test]
fn what_is_taken_apart_and_put_together_is_the_same() {
    let request = logs();
    let records = parts(Signal::Logs, &request.encode_to_vec());
    assert_eq!(records.len(), 4);
    let joined = whole(&records);
    assert_eq!(ExportLogsServiceRequest::decode(&*joined), Ok(request));

    let request = traces();
    let records = parts(Signal::Traces, &request.encode_to_vec());
    assert_eq!(records.len(), 2);
    let joined = whole(&records);
    assert_eq!(ExportTraceServiceRequest::decode(&*joined), Ok(request));

    let request = metrics();
    let records = parts(Signal::Metrics, &request.encode_to_vec());
    assert_eq!(records.len(), 8, "data points");
    let joined = whole(&records);
    assert_eq!(ExportMetricsServiceRequest::decode(&*joined), Ok(request));
}

#[test]
fn fields_that_are_newer_than_us_stay_wherever_they_are() {
    // Field 99 in the log, its scope and its resource.
    let newer = |bytes: &mut Vec<u8>| put_bytes(bytes, 99, b"later");
    let mut scope = Vec::new();
    nest(&mut scope, ITEMS, |out| newer(out));
    newer(&mut scope);
    let mut resource = Vec::new();
    newer(&mut resource);
    put_bytes(&mut resource, SCOPES, &scope);
    let mut request = Vec::new();
    put_bytes(&mut request, RESOURCES, &resource);
    let joined = whole(&parts(Signal::Logs, &request));
    assert_eq!(joined.windows(5).filter(|five| five == b"later").count(), 3);
}

#[test]
fn the_table_agrees_with_the_generated_types_in_both_directions() {
    let requests = [
        (Signal::Logs, logs().encode_to_vec()),
        (Signal::Traces, traces().encode_to_vec()),
        (Signal::Metrics, metrics().encode_to_vec()),
    ];
    for (signal, request) in requests {
        for record in parts(signal, &request) {
            let text = as_json(&record).to_string();
            let written = transcode(signal, text.as_bytes(), 1 << 20).unwrap();
            let mut expected = whole(std::slice::from_ref(&record));
            // The schema's address is not among what is printed.
            expected = strip_schema(signal, &expected);
            let same = match signal {
                Signal::Logs => {
                    ExportLogsServiceRequest::decode(&*written)
                        == ExportLogsServiceRequest::decode(&*expected)
                }
                Signal::Traces => {
                    ExportTraceServiceRequest::decode(&*written)
                        == ExportTraceServiceRequest::decode(&*expected)
                }
                Signal::Metrics => {
                    ExportMetricsServiceRequest::decode(&*written)
                        == ExportMetricsServiceRequest::decode(&*expected)
                }
            };
            assert!(same, "{text}");
        }
    }
}

fn strip_schema(signal: Signal, request: &[u8]) -> Vec<u8> {
    let records = parts(signal, request);
    let bare = |head: &Arc<[u8]>| without(head, &[3]).unwrap().into();
    let records: Vec<_> = records
        .into_iter()
        .map(|record| OtlpRecord {
            origin: Arc::new(Origin {
                resource: bare(&record.origin.resource),
                scope: bare(&record.origin.scope),
                metric: record.origin.metric.as_ref().map(|head| MetricHead {
                    metric: head.metric.clone(),
                    field: head.field,
                    data: head.data.clone(),
                }),
                share: 0,
            }),
            ..record
        })
        .collect();
    whole(&records)
}

#[test]
fn json_is_read_as_the_protocol_says() {
    use any_value::Value::{BoolValue, BytesValue, DoubleValue, IntValue};
    let text = r#"{"resourceLogs":[{"resource":null,"later":{"x":[1,{}]},"scopeLogs":[{"logRecords":[{
        "timeUnixNano":"1544712660300000000","observedTimeUnixNano":1544712660300000001,
        "severityNumber":10,"severityText":"In\u0066ormation","traceId":"5B8EFFF798038103D269B633813FC60C",
        "spanId":"","droppedAttributesCount":1,"flags":1.0,
        "body":{"arrayValue":{"values":[{"intValue":"-12"},{"intValue":7},{"doubleValue":"NaN"},{"doubleValue":3},
            {"bytesValue":"-_8="},{"boolValue":true},{}]}},"attributes":null}]}]}]}"#;
    let bytes = transcode(Signal::Logs, text.as_bytes(), 1 << 20).unwrap();
    let request = ExportLogsServiceRequest::decode(&*bytes).unwrap();
    let log = &request.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!(log.time_unix_nano, 1_544_712_660_300_000_000);
    assert_eq!(log.observed_time_unix_nano, 1_544_712_660_300_000_001);
    assert_eq!(
        (log.severity_number, log.severity_text.as_str()),
        (10, "Information")
    );
    assert_eq!(log.trace_id[..4], [0x5b, 0x8e, 0xff, 0xf7]);
    assert_eq!(
        (log.span_id.len(), log.flags, log.dropped_attributes_count),
        (0, 1, 1)
    );
    let Some(any_value::Value::ArrayValue(list)) = log.body.clone().unwrap().value else {
        panic!("{log:?}")
    };
    let values: Vec<_> = list.values.into_iter().map(|value| value.value).collect();
    assert!(matches!(values[2], Some(DoubleValue(value)) if value.is_nan()));
    assert_eq!(values[..2], [Some(IntValue(-12)), Some(IntValue(7))]);
    assert_eq!(
        values[3..],
        [
            Some(DoubleValue(3.0)),
            Some(BytesValue(vec![0xfb, 0xff])),
            Some(BoolValue(true)),
            None
        ]
    );
    assert_eq!(log.attributes, []);
}

#[test]
fn json_that_is_wrong_is_refused_with_its_place_or_its_field() {
    let log = |members: &str| {
        format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{{members}}}]}}]}}]}}"#)
    };
    let cases = [
        (String::new(), "EOF"),
        ("[]".to_owned(), "expected an object"),
        ("{} x".to_owned(), "trailing"),
        (
            r#"{"resourceLogs":{}}"#.to_owned(),
            "resourceLogs: a list belongs here",
        ),
        (
            r#"{"resourceLogs":[null]}"#.to_owned(),
            "resourceLogs: a value of the wrong type",
        ),
        (
            log(r#""timeUnixNano":"-1""#),
            "timeUnixNano: -1 is out of range",
        ),
        (log(r#""timeUnixNano":1e30"#), "timeUnixNano"),
        (log(r#""timeUnixNano":"soon""#), "no whole number"),
        (
            log(r#""severityNumber":"INFO""#),
            "severityNumber: a text that is no whole number",
        ),
        (log(r#""severityText":7"#), "severityText"),
        (
            log(r#""traceId":"abc""#),
            "traceId: a text that is no hexadecimal",
        ),
        (
            log(r#""traceId":"abcd""#),
            "traceId: a text that is no id of the right length",
        ),
        (log(r#""body":{"bytesValue":"*"}"#), "no base64"),
        (log(r#""body":"text""#), "body: a value of the wrong type"),
        (log(r#""body":[1]"#), "body: a value of the wrong type"),
        (
            log(r#""body":{"boolValue":"yes"}"#),
            "boolValue: a value of the wrong type",
        ),
        (log("\"severityText\":\"\u{1}\""), "control character"),
    ];
    for (text, wanted) in cases {
        let error = transcode(Signal::Logs, text.as_bytes(), 1 << 20).unwrap_err();
        assert!(
            error.to_string().contains(wanted),
            "{text}: {error}, not {wanted}"
        );
    }
    let bytes = b"{\"resourceLogs\":[{\"schemaUrl\":\"\xff\"}]}";
    assert!(matches!(
        transcode(Signal::Logs, bytes, 100),
        Err(Malformed::Json(_))
    ));
}

#[test]
fn protobuf_that_is_wrong_is_refused() {
    let request = |log: &[u8]| {
        let mut out = Vec::new();
        nest(&mut out, 1, |out| {
            nest(out, 2, |out| put_bytes(out, 2, log));
        });
        out
    };
    let mut shorter = logs().encode_to_vec();
    shorter.pop();
    let mut text = Vec::new();
    put_bytes(&mut text, 3, b"\xff");
    let mut id = Vec::new();
    put_bytes(&mut id, 9, b"abc");
    let mut kind = Vec::new();
    put_bytes(&mut kind, 2, b"abc");
    let mut deep = Vec::new();
    for _ in 0..200 {
        let inner = std::mem::take(&mut deep);
        nest(&mut deep, 5, |out| put_bytes(out, 1, &inner));
    }
    let mut body = Vec::new();
    put_bytes(&mut body, 5, &deep);
    let cases = [
        (shorter, Malformed::Short),
        (b"\x0b\x0c".to_vec(), Malformed::Tag),
        (b"\x00\x00".to_vec(), Malformed::Tag),
        (
            [b"\x08".as_slice(), &[0xff; 10]].concat(),
            Malformed::Number,
        ),
        (request(&text), Malformed::Text("severityText")),
        (request(&id), Malformed::Id("traceId")),
        (request(&kind), Malformed::Kind("severityNumber")),
        (request(&body), Malformed::Deep),
        (b"hello".to_vec(), Malformed::Tag),
    ];
    for (bytes, wanted) in cases {
        let error = split(Signal::Logs, &bytes, MANY).unwrap_err();
        assert_eq!(error, wanted);
        assert!(
            ExportLogsServiceRequest::decode(&*bytes).is_err()
                || wanted == Malformed::Id("traceId"),
            "the generated reader refuses it too: {wanted:?}"
        );
    }
}

#[test]
fn a_small_request_cannot_become_many_records() {
    let mut scope = Vec::new();
    for _ in 0..100_000 {
        put_bytes(&mut scope, ITEMS, b"");
    }
    let mut request = Vec::new();
    nest(&mut request, 1, |out| put_bytes(out, 2, &scope));
    assert_eq!(
        split(Signal::Logs, &request, MANY),
        Err(Malformed::Many(MANY))
    );
    let bounds = format!(
        "{{\"dataPoints\":[{{\"explicitBounds\":[{}0]}}]}}",
        "0,".repeat(50_000)
    );
    let text = format!(
        "{{\"resourceMetrics\":[{{\"scopeMetrics\":[{{\"metrics\":[{{\"histogram\":{bounds}}}]}}]}}]}}"
    );
    assert_eq!(
        transcode(Signal::Metrics, text.as_bytes(), text.len()),
        Err(Malformed::Large(text.len()))
    );
}

#[test]
fn the_weight_of_what_is_around_is_shared() {
    let request = logs().encode_to_vec();
    let records = parts(Signal::Logs, &request);
    let weight: usize = records.iter().map(OtlpRecord::weight).sum();
    assert!(weight > request.len(), "{weight} of {}", request.len());
    assert!(
        weight < 3 * request.len() + 1000,
        "{weight} of {}",
        request.len()
    );
}

#[test]
fn answers_are_those_of_the_protocol() {
    let partial = ExportMetricsServiceResponse::decode(&*answer(3, "why"))
        .unwrap()
        .partial_success
        .unwrap();
    assert_eq!(
        (partial.rejected_data_points, partial.error_message.as_str()),
        (3, "why")
    );
    assert_eq!(answer(0, ""), b"");
    assert_eq!(print_answer(Signal::Logs, 0, ""), "{}");
    assert_eq!(
        serde_json::from_str::<Json>(&print_answer(Signal::Traces, 3, "why")).unwrap(),
        json!({"partialSuccess": {"rejectedSpans": "3", "errorMessage": "why"}})
    );
    assert_eq!(status(8, "no"), b"\x08\x08\x12\x02no");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_panic_and_what_is_taken_stays_readable(mut bytes: Vec<u8>, at: usize, with: u8) {
        let mut requests = vec![bytes.clone()];
        for mut request in [logs().encode_to_vec(), traces().encode_to_vec(), metrics().encode_to_vec()] {
            let length = request.len();
            request[at % length] = with;
            requests.push(request);
        }
        for request in requests {
            for signal in Signal::ALL {
                if let Ok(records) = split(signal, &request, MANY) {
                    let joined = whole(&records);
                    prop_assert_eq!(split(signal, &joined, MANY).map(|again| again.len()), Ok(records.len()));
                    for record in &records {
                        print(record);
                    }
                }
            }
        }
        bytes.insert(0, b'{');
        for signal in Signal::ALL {
            if let Ok(written) = transcode(signal, &bytes, 1 << 16) {
                prop_assert!(split(signal, &written, MANY).is_ok());
            }
        }
    }

    #[test]
    fn json_with_one_byte_changed_is_refused_or_writes_a_good_request(at: usize, with: u8) {
        for record in parts(Signal::Metrics, &metrics().encode_to_vec()) {
            let mut text = as_json(&record).to_string().into_bytes();
            let length = text.len();
            text[at % length] = with;
            if let Ok(written) = transcode(Signal::Metrics, &text, 1 << 20) {
                prop_assert!(split(Signal::Metrics, &written, MANY).is_ok());
            }
        }
    }
}
