//! The client against replies nobody should send.

use flock_bird::codec::{MAX_LINE, MAX_REPLY};
use flock_bird::{Client, ConfPath, Configured, DaemonState};
use flock_core::ports::{Retry, RoutingError};

use crate::script::{Answer, BUSY, GREETING, HASTY, PATIENT, Server, UP, healthy};

/// The error of a `show status` that is answered like this, and of the command after it.
async fn status_errors(answer: impl FnOnce() -> Answer + Send + 'static) -> (RoutingError, RoutingError) {
    let mut answer = Some(answer);
    let server = Server::start(move |command| match command {
        "show status" => answer.take().expect("asked once")(),
        other => healthy(other),
    });
    let mut client = Client::connect(&server.socket(), HASTY.reply).await.unwrap();
    let error = client.daemon().await.unwrap_err();
    let next = client.daemon().await.unwrap_err();
    assert_eq!(server.commands(), ["show status"], "a connection that failed is not used again");
    (error, next)
}

#[tokio::test]
async fn bad_replies_are_typed_errors_and_end_the_connection() {
    let check = async |answer: Answer, label: &str, text: &str| {
        let (error, next) = status_errors(move || answer).await;
        assert_eq!(error.label(), label, "{error}");
        assert_eq!(error.retry(), Retry::Later);
        assert!(error.to_string().contains(text), "{error} / {text}");
        assert_eq!(next.label(), "bird_unreachable", "{next}");
    };
    check(Answer::Silence, "bird_timeout", "\"show status\"").await;
    check(Answer::Say("1000-BIRD 2.0.12\n"), "bird_timeout", "\"show status\"").await;
    check(Answer::HangUp(""), "bird_unreachable", "end of file").await;
    check(Answer::HangUp("1000-BIRD 2.0.12\n0013 Daem"), "bird_unreachable", "end of file").await;
    check(Answer::Say("HTTP/1.1 400 Bad Request\r\n\r\n"), "bird_protocol", "HTTP/1.1").await;
    check(Answer::Bytes(vec![0xff; 3 * MAX_LINE]), "bird_protocol", "line is longer").await;
    check(Answer::Bytes(b"1006-x\n".repeat(MAX_REPLY / 6)), "bird_protocol", "reply is longer").await;
    check(Answer::Say("0013 Daemon is up and running\n0000 \n"), "bird_protocol", "several replies").await;
}

#[tokio::test]
async fn a_reply_of_the_wrong_kind_is_told_and_the_connection_lives_on() {
    let mut first = true;
    let server = Server::start(move |command| match command {
        "show status" if std::mem::take(&mut first) => Answer::Say("9001 syntax error, unexpected NAME\n"),
        other => healthy(other),
    });
    let mut client = Client::connect(&server.socket(), PATIENT.reply).await.unwrap();
    let error = client.daemon().await.unwrap_err().to_string();
    assert!(error.contains("\"show status\"") && error.contains("9001 syntax error"), "{error}");
    assert_eq!(client.daemon().await.unwrap().version, "BIRD 2.0.12");
}

#[tokio::test]
async fn who_is_not_bird_is_not_greeted() {
    let check = async |answer: fn() -> Answer, label: &str| {
        let server = Server::start(move |_| answer());
        let error = Client::connect(&server.socket(), HASTY.reply).await.unwrap_err();
        assert_eq!(error.label(), label, "{error}");
    };
    check(|| Answer::Silence, "bird_timeout").await;
    check(|| Answer::HangUp(""), "bird_unreachable").await;
    check(|| Answer::Say("220 mail.example ESMTP\n"), "bird_protocol").await;
    check(|| Answer::Say("8000 go away\n"), "bird_protocol").await;

    let nowhere = tempfile::tempdir().unwrap().path().join("bird.ctl");
    let error = Client::connect(&nowhere, PATIENT.reply).await.unwrap_err();
    assert_eq!(error.label(), "bird_unreachable");
    assert!(error.to_string().contains(nowhere.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn replies_may_come_byte_by_byte() {
    let server = Server::start(|command| match command {
        "greeting" => Answer::Slowly(GREETING),
        _ => Answer::Slowly(UP),
    });
    let mut client = Client::connect(&server.socket(), PATIENT.reply).await.unwrap();
    let daemon = client.daemon().await.unwrap();
    assert_eq!((daemon.version.as_str(), daemon.state), ("BIRD 2.0.12", DaemonState::Running));
}

#[tokio::test]
async fn a_command_given_up_does_not_answer_the_next_one() {
    let server = Server::start(|command| match command {
        "show status" => Answer::Silence,
        other => healthy(other),
    });
    let mut client = Client::connect(&server.socket(), PATIENT.reply).await.unwrap();
    tokio::select! {
        _ = client.daemon() => panic!("nobody answers"),
        () = server.heard("show status") => {}
    }
    assert_eq!(client.configure().await.unwrap_err().label(), "bird_unreachable");
    assert_eq!(server.commands(), ["show status"]);
}

#[tokio::test]
async fn every_reply_of_configure_has_a_meaning() {
    let check = async |reply: &'static str, expect: Result<Configured, &str>| {
        let server = Server::start(move |command| match command {
            "configure" => Answer::Say(reply),
            other => healthy(other),
        });
        std::fs::write(server.conf(), "").unwrap();
        let mut client = Client::connect(&server.socket(), PATIENT.reply).await.unwrap();
        let result = client.configure().await;
        assert_eq!(result.as_ref().map_err(RoutingError::label), expect.as_ref().map_err(|label| *label));
    };
    check("0002-Reading\n0003 Reconfigured\n", Ok(Configured::Done)).await;
    check("0002-Reading\n0004 Reconfiguration in progress\n", Ok(Configured::InProgress)).await;
    check(
        "0002-Reading\n0005 Reconfiguration already in progress, queueing new config\n",
        Ok(Configured::InProgress),
    )
    .await;
    check("0002-Reading\n0006 Reconfiguration ignored, shutting down\n", Err("bird_unreachable")).await;
    check("0002-Reading\n8002 F:3:1 syntax error\n", Err("bird_refused")).await;
    check("8007 Access denied\n", Err("bird_protocol")).await;
}

#[tokio::test]
async fn waiting_ends_when_bird_runs_goes_down_or_takes_too_long() {
    let check = async |last: &'static str, expect: Result<(), &str>| {
        let mut asked = 0;
        let server = Server::start(move |command| match command {
            "show status" => {
                asked += 1;
                Answer::Say(if asked <= 3 { BUSY } else { last })
            }
            other => healthy(other),
        });
        let mut client = Client::connect(&server.socket(), PATIENT.reply).await.unwrap();
        let settled = client.settled(HASTY.reconfigure * if expect.is_ok() { 100 } else { 1 }).await;
        assert_eq!(settled.as_ref().map(|_| ()).map_err(RoutingError::label), expect);
        assert!(server.commands().len() > 3);
    };
    check(UP, Ok(())).await;
    check("1000-BIRD 2.0.12\n0013 Shutdown in progress\n", Err("bird_unreachable")).await;
    check(BUSY, Err("bird_timeout")).await;
}

#[tokio::test]
async fn simple_commands_are_sent_as_bird_knows_them() {
    let server = Server::start(|command| {
        Answer::Say(match command {
            "greeting" => GREETING,
            "configure check \"/a b/c.conf\"" => "0002-Reading\n8002 /a b/c.conf:7:3 syntax error\n",
            "graceful restart" => "0025 Graceful restart requested\n",
            "down" => "0007 Shutdown requested\n",
            _ => "9001 syntax error\n",
        })
    });
    let mut client = Client::connect(&server.socket(), PATIENT.reply).await.unwrap();
    let path = ConfPath::parse("/a b/c.conf".as_ref()).unwrap();
    let refused = client.check(&path).await.unwrap_err();
    assert_eq!(refused.to_string(), "routing daemon refuses the configuration: /a b/c.conf:7:3 syntax error");
    client.graceful_restart().await.unwrap();
    client.down().await.unwrap();
}
