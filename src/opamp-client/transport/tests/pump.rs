//! Given an established connection, when either side talks, misbehaves or goes away, then frames arrive and the end
//! is told.

use proptest::prelude::*;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::*;

fn close_frame(code: u16, reason: &str) -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::from(code),
        reason: reason.to_owned().into(),
    }))
}

/// Runs a pump on our end while `script` plays the peer; the peer's stream is dropped when the script ends.
async fn against<F, Fut>(config: PumpConfig, script: F) -> (Closed, Vec<Vec<u8>>, Fut::Output)
where
    F: FnOnce(WebSocketStream<TcpStream>, FrameSender) -> Fut,
    Fut: Future,
{
    let (ours, theirs) = pair().await;
    let (pump, sender, mut receiver) = Pump::new(ours, config);
    let collect = async {
        let mut frames = Vec::new();
        while let Some(frame) = receiver.recv().await {
            frames.push(frame);
        }
        frames
    };
    // On the heap, or the test's own future grows past what clippy allows.
    in_time(Box::pin(async {
        tokio::join!(pump.run(), collect, script(theirs, sender))
    }))
    .await
}

//
#[tokio::test]
async fn frames_are_binary_both_ways_and_fragments_are_joined() {
    let (closed, frames, seen) = against(PumpConfig::default(), |mut peer, sender| async move {
        sender.send(vec![0, 1, 2]).await.unwrap();
        let seen = peer.next().await.unwrap().unwrap();
        let part = |bytes: &[u8], kind, last| {
            Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(kind), last))
        };
        peer.send(part(&[0, 9], Data::Binary, false)).await.unwrap();
        peer.send(part(&[8], Data::Continue, true)).await.unwrap();
        peer.send(close_frame(1000, "bye")).await.unwrap();
        while let Some(Ok(_)) = peer.next().await {}
        drop(sender);
        seen
    })
    .await;
    assert_eq!(seen, Message::Binary(vec![0, 1, 2].into()));
    assert_eq!(frames, [vec![0, 9, 8]]);
    assert_eq!(
        (closed.code, closed.reason.as_str(), closed.by),
        (1000, "bye", ClosedBy::Peer)
    );
    assert_eq!(closed.class(), ClosedClass::Lost);
}

//
#[tokio::test]
async fn closing_sends_what_is_queued_then_close_1000() {
    let (closed, _, seen) = against(PumpConfig::default(), |mut peer, sender| async move {
        for number in 0..10 {
            sender.send(vec![number]).await.unwrap();
        }
        drop(sender);
        let mut seen = Vec::new();
        while let Some(Ok(message)) = peer.next().await {
            seen.push(message);
        }
        seen
    })
    .await;
    let numbers = (0..10).map(|number| Message::Binary(vec![number].into()));
    let wanted: Vec<_> = numbers.chain([close_frame(1000, "")]).collect();
    assert_eq!(seen, wanted);
    assert_eq!(
        (closed.by, closed.class()),
        (ClosedBy::Us, ClosedClass::Wanted)
    );
}

// servers that check credentials after the upgrade say 1008.
#[tokio::test]
async fn close_codes_of_the_peer_become_classes() {
    let cases = [
        (1008, ClosedClass::Rejected),
        (1013, ClosedClass::Throttled),
        (1012, ClosedClass::Throttled),
        (1009, ClosedClass::TooLarge),
        (1001, ClosedClass::Lost),
    ];
    for (code, class) in cases {
        let (closed, _, answer) = against(PumpConfig::default(), |mut peer, sender| async move {
            peer.send(close_frame(code, "bad\ntoken")).await.unwrap();
            let answer = peer.next().await;
            drop(sender);
            answer
        })
        .await;
        assert_eq!((closed.code, closed.class()), (code, class));
        assert_eq!(
            (closed.reason.as_str(), closed.by),
            ("bad token", ClosedBy::Peer)
        );
        assert_eq!(
            answer.unwrap().unwrap(),
            close_frame(code, "bad\ntoken"),
            "R-275: echoed"
        );
    }
}

//
#[tokio::test]
async fn a_dropped_connection_is_lost_with_1006() {
    let (closed, frames, ()) = against(PumpConfig::default(), |mut peer, sender| async move {
        peer.send(Message::Binary(vec![7].into())).await.unwrap();
        drop(peer);
        drop(sender.reserve().await);
        while sender.send(vec![1]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        (closed.code, closed.by, closed.class()),
        (1006, ClosedBy::Failure, ClosedClass::Lost)
    );
    assert!(frames.is_empty() || frames == [vec![7]], "{frames:?}");
}

//
#[tokio::test]
async fn text_is_refused_with_1003() {
    let (closed, frames, answer) = against(PumpConfig::default(), |mut peer, sender| async move {
        peer.send(Message::Text("hello".into())).await.unwrap();
        let answer = peer.next().await;
        drop(sender);
        answer
    })
    .await;
    assert_eq!(frames, Vec::<Vec<u8>>::new());
    assert_eq!(
        (closed.code, closed.by, closed.class()),
        (1003, ClosedBy::Us, ClosedClass::Lost)
    );
    let Message::Close(Some(frame)) = answer.unwrap().unwrap() else {
        panic!("a close frame")
    };
    assert_eq!(u16::from(frame.code), 1003);
}

//
#[tokio::test]
async fn messages_over_the_limit_are_refused_with_1009_and_the_limit_itself_passes() {
    let (closed, frames, answer) = against(PumpConfig::default(), |mut peer, sender| async move {
        peer.send(Message::Binary(vec![1; 1024].into()))
            .await
            .unwrap();
        peer.send(Message::Binary(vec![2; 1025].into()))
            .await
            .unwrap();
        let answer = peer.next().await;
        drop(sender);
        answer
    })
    .await;
    assert_eq!(frames, [vec![1; 1024]]);
    assert_eq!(
        (closed.code, closed.by, closed.class()),
        (1009, ClosedBy::Us, ClosedClass::TooLarge)
    );
    let Message::Close(Some(frame)) = answer.unwrap().unwrap() else {
        panic!("a close frame")
    };
    assert_eq!(u16::from(frame.code), 1009);
}

//
#[tokio::test]
async fn pings_of_the_peer_are_answered() {
    let (_, _, answer) = against(PumpConfig::default(), |mut peer, sender| async move {
        peer.send(Message::Ping(vec![4, 2].into())).await.unwrap();
        let answer = peer.next().await;
        drop(sender);
        answer
    })
    .await;
    assert_eq!(answer.unwrap().unwrap(), Message::Pong(vec![4, 2].into()));
}

//
#[tokio::test(start_paused = true)]
async fn a_silent_link_is_found_dead_after_two_intervals() {
    let (near, _far) = tokio::io::duplex(1024);
    let connection = Connection::upgraded(near, RequestHead::default(), 1024).await;
    let (pump, _sender, _receiver) = Pump::new(connection, PumpConfig::default());
    let start = Instant::now();
    let closed = pump.run().await;
    assert_eq!(start.elapsed().as_secs(), 90);
    assert_eq!((closed.code, closed.by), (1006, ClosedBy::Failure));
}

//
#[tokio::test(start_paused = true)]
async fn a_link_that_answers_pings_lives() {
    let (near, far) = tokio::io::duplex(1024);
    let connection = Connection::upgraded(near, RequestHead::default(), 1024).await;
    let (pump, sender, _receiver) = Pump::new(connection, PumpConfig::default());
    let mut peer = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let mut pump = std::pin::pin!(pump.run());
    let mut pings = 0;
    while pings < 10 {
        tokio::select! {
            closed = &mut pump => panic!("{closed:?}"),
            message = peer.next() => {
                assert_eq!(message.unwrap().unwrap(), Message::Ping(Vec::new().into()));
                pings += 1;
            }
        }
    }
    drop(sender);
}

//
#[tokio::test(start_paused = true)]
async fn a_peer_that_ignores_the_close_is_left_after_five_seconds() {
    let (near, _far) = tokio::io::duplex(1024);
    let connection = Connection::upgraded(near, RequestHead::default(), 1024).await;
    let (pump, sender, _receiver) = Pump::new(connection, PumpConfig::default());
    drop(sender);
    let start = Instant::now();
    let closed = pump.run().await;
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(closed.by, ClosedBy::Us);
}

//
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_given_up_after_ten_seconds() {
    let (near, _far) = tokio::io::duplex(16);
    let connection = Connection::upgraded(near, RequestHead::default(), 1024).await;
    let (pump, sender, _receiver) = Pump::new(connection, PumpConfig::default());
    sender.try_send(vec![0; 1000]).unwrap();
    let start = Instant::now();
    let closed = pump.run().await;
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(
        (closed.reason.as_str(), closed.by),
        ("peer does not read", ClosedBy::Failure)
    );
    assert_eq!(sender.try_send(vec![]), Err(SendError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_is_not_mistaken_for_a_dead_link() {
    let (near, far) = tokio::io::duplex(1024);
    let connection = Connection::upgraded(near, RequestHead::default(), 1024).await;
    let (pump, sender, mut receiver) = Pump::new(connection, PumpConfig::default());
    let mut peer = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let talk = async {
        for number in 0..20 {
            peer.send(Message::Binary(vec![number].into()))
                .await
                .unwrap();
        }
        // Nobody reads the queue for an hour of this clock.
        let waking = Instant::now() + Duration::from_hours(1);
        tokio::time::sleep_until(waking).await;
        let mut seen = Vec::new();
        while seen.len() < 20 {
            seen.extend(receiver.recv().await.expect("link stands"));
        }
        drop(sender);
        while let Some(Ok(_)) = peer.next().await {}
        seen
    };
    let (closed, seen) = tokio::join!(pump.run(), talk);
    assert_eq!(seen, (0..20).collect::<Vec<u8>>());
    assert_eq!(closed.class(), ClosedClass::Wanted);
}

#[tokio::test]
async fn the_send_queue_is_bounded() {
    let (ours, _theirs) = pair().await;
    let (_pump, sender, _receiver) = Pump::new(ours, PumpConfig::default());
    let taken = (0..100)
        .take_while(|_| sender.try_send(vec![0]).is_ok())
        .count();
    assert_eq!(taken, 16);
    assert_eq!(sender.try_send(vec![0]), Err(SendError::Full));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // a stream hands over bytes in any portions.
    #[test]
    fn frames_survive_any_split(
        portion in 1_usize..64,
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
    ) {
        let given = frames.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let echoed = runtime.block_on(in_time(async {
            let (near, far) = tokio::io::duplex(portion);
            let connection = Connection::upgraded(near, RequestHead::default(), 1024).await;
            let (pump, sender, mut receiver) = Pump::new(connection, PumpConfig::default());
            let peer = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            let (mut sink, mut stream) = peer.split();
            let give = async {
                for frame in &given {
                    sink.send(Message::Binary(frame.clone().into())).await.unwrap();
                }
            };
            let count = given.len();
            let echo = async move {
                for _ in 0..count {
                    let frame = receiver.recv().await.unwrap();
                    sender.send(frame).await.unwrap();
                }
            };
            let take = async {
                let mut seen = Vec::new();
                while let Some(Ok(message)) = stream.next().await {
                    if let Message::Binary(bytes) = message {
                        seen.push(Vec::from(bytes));
                    }
                }
                seen
            };
            let (_, (), (), seen) = tokio::join!(pump.run(), give, echo, take);
            seen
        }));
        prop_assert_eq!(echoed, frames);
    }
}

#[test]
fn a_pump_can_be_a_task_of_a_set() {
    fn takes_a_task<T: Send + 'static>(_run: fn(Pump) -> T) {}
    takes_a_task(Pump::run);
}
