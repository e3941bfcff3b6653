//! A child for the budgets: writes down when it began, then accepts connections until it is stopped.
//!
//! Promises: the first thing it does is to read the wall clock; what it writes is one line, `NANOSECONDS PID`.
//! Arguments: the file that the line is appended to, and the address to listen on (left out: it only waits).

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    let began = SystemTime::now();
    let nanoseconds = began
        .duration_since(UNIX_EPOCH)
        .expect("the clock is after 1970")
        .as_nanos();
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("usage: stamp FILE [ADDRESS]");
    let listener = arguments
        .next()
        .map(|address| TcpListener::bind(address).expect("the address is free"));
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("the file can be opened");
    file.write_all(format!("{nanoseconds} {}\n", std::process::id()).as_bytes())
        .expect("the file can be written");
    match listener {
        Some(listener) => {
            while let Ok((stream, _)) = listener.accept() {
                drop(stream);
            }
        }
        None => loop {
            std::thread::park();
        },
    }
}
