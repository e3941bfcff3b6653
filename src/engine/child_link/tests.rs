//! Given a child's own link; when it says what became of a config; then the last word counts until a new one is
//! awaited.

use opamp_client::messages::RemoteConfigStatus;

use super::*;

fn says(link: &mut ChildLink, status: i32) -> Option<ChildStatus> {
    let message = AgentToServer {
        remote_config_status: Some(RemoteConfigStatus {
            last_remote_config_hash: vec![1],
            status,
            error_message: "words".to_owned(),
        }),
        ..AgentToServer::default()
    };
    let frame = frame::encode(&message, frame::MAX_MESSAGE_DEFAULT).unwrap();
    link.frame(1, &frame, [7; 16]).unwrap();
    link.status.clone()
}

#[test]
fn last_final_word_about_a_config_counts_until_another_is_awaited() {
    let mut link = ChildLink::default();
    link.opened(1);
    let told = |applied| {
        Some(ChildStatus {
            hash: vec![1],
            applied,
            message: "words".to_owned(),
        })
    };
    assert_eq!(says(&mut link, 2), None);
    assert_eq!(says(&mut link, 1), told(true));
    assert_eq!(says(&mut link, 2), told(true));
    assert_eq!(says(&mut link, 3), told(false));
    assert_eq!(says(&mut link, 0), told(false));
    link.revision = Some("x".to_owned());
    link.expect_proof();
    assert_eq!((link.status.clone(), link.revision.clone()), (None, None));
    assert_eq!(says(&mut link, 1), told(true));
    assert!(link.closed(1));
    assert_eq!(link.status, None);
    assert!(!link.closed(1));
}
