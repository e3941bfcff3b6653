//! The layout against the compiled object, and records as a kernel wrote them.

use super::layout::{self, Detail, Kind, Tcp, decode};

/// Given the type information inside the compiled object,
/// when it is laid beside the structures that read the records,
/// then every member stands at the same place.
#[test]
fn the_compiled_layout_is_the_one_that_is_read() {
    let dump = std::process::Command::new("bpftool")
        .env(
            "PATH",
            format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()),
        )
        .args(["--json", "btf", "dump", "file"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/kernel.bpf.o"))
        .output()
        .expect("run bpftool; tests/setup.sh installs it");
    let dump: serde_json::Value = serde_json::from_slice(&dump.stdout).unwrap();
    for (name, members) in layout::testing::offsets() {
        let types = dump["types"].as_array().unwrap();
        let compiled = types
            .iter()
            .find(|one| one["kind"] == "STRUCT" && one["name"] == name)
            .unwrap_or_else(|| panic!("no struct {name} in the object"));
        let compiled: Vec<(String, u64)> = compiled["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| {
                let name = member["name"].as_str().unwrap().to_owned();
                (name, member["bits_offset"].as_u64().unwrap() / 8)
            })
            .collect();
        let read: Vec<(String, u64)> = members
            .into_iter()
            .map(|(member, offset)| (member.to_owned(), offset as u64))
            .collect();
        assert_eq!(compiled, read, "{name}");
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// A record of the kill of a process in a control group of 32 MiB.
const OOM_KILL: &str = "
    0107 3800 d20a0000 15cd5b0700000000 0100000000000000 b90a0000 00000000
    70797468 6f6e3300 00000000 00000000 f4010000 00000000";

#[test]
fn a_recorded_kill_is_read() {
    let event = decode(&bytes(OOM_KILL)).unwrap();
    assert_eq!(event.kind, Kind::OomKill);
    assert_eq!((event.pid, event.parent_pid), (Some(2770), Some(2745)));
    assert_eq!((event.time_ns, event.cgroup_id), (123_456_789, 1));
    assert_eq!(event.comm, "python3");
    assert_eq!(event.detail, Detail::OomKill { score_adj: 500 });
}

#[test]
fn ipv4_inside_ipv6_is_ipv4_and_a_port_not_chosen_is_none() {
    let mut record = vec![0; 120];
    record[..4].copy_from_slice(&[1, 4, 120, 0]);
    record[48] = 10;
    record[52..54].copy_from_slice(&443_u16.to_ne_bytes());
    record[60] = 111;
    record[80 + 10..80 + 16].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 7]);
    record[79] = 1;
    let event = decode(&record).unwrap();
    assert_eq!((event.kind, event.pid), (Kind::ConnectFailed, None));
    let Detail::Tcp(Tcp {
        local,
        local_port,
        peer,
        peer_port,
        error,
        ..
    }) = event.detail
    else {
        panic!("{event:?}")
    };
    assert_eq!((local.to_string().as_str(), local_port), ("::1", None));
    assert_eq!((peer.to_string().as_str(), peer_port), ("10.0.0.7", 443));
    assert_eq!(error, 111);
}

#[test]
fn command_lines_are_words_even_when_they_are_cut_or_empty() {
    let mut record = vec![0; 440];
    record[..4].copy_from_slice(&[1, 1, 184, 1]);
    let args = |record: &mut [u8], total: u32, text: &[u8]| {
        record[48..52].copy_from_slice(&total.to_ne_bytes());
        record[52..56].copy_from_slice(&u32::try_from(text.len()).unwrap().to_ne_bytes());
        record[184..184 + text.len()].copy_from_slice(text);
        match decode(record).unwrap().detail {
            Detail::Exec { args, cut, .. } => (args.join("|"), cut),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(args(&mut record, 0, b""), (String::new(), false));
    let whole = b"sh\0-c\0\0exit 3\0";
    let found = args(&mut record, 14, whole);
    assert_eq!(found, ("sh|-c||exit 3".to_owned(), false));
    assert_eq!(args(&mut record, 900, b"sh\0-"), ("sh|-".to_owned(), true));
    // A count that no kernel of ours writes reads nothing beyond the record.
    record[52..56].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(decode(&record).is_ok());
}

proptest::proptest! {
    #[test]
    fn no_record_is_read_beyond_its_end(mut record: Vec<u8>, kind in 0_u8..12, version in 0_u8..3) {
        if let [first, second, ..] = record.as_mut_slice() {
            (*first, *second) = (version, kind);
        }
        let length = record.len();
        if let Ok(event) = decode(&record) {
            proptest::prop_assert!(version == 1 && length >= 48, "{event:?}");
        }
    }
}
