//! What the adapter writes and says, step by step, against a scripted BIRD.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flock_core::bird;
use flock_core::ports::{Applied, Routing, RoutingConfig};
use flock_core::testing::routing_peer;

use crate::script::{Answer, BUSY, DONE, HASTY, PATIENT, Server, UP, healthy, verb};

/// The configuration number `n`.
fn config(n: u8) -> RoutingConfig {
    RoutingConfig {
        router_id: "192.0.2.10".parse().unwrap(),
        asn: 65101,
        peers: vec![routing_peer(&format!("203.0.113.{n}"))],
        ipv6: true,
        ipv4: true,
    }
}

fn text(n: u8) -> String {
    bird::render(&config(n)).unwrap()
}

fn file(server: &Server) -> String {
    std::fs::read_to_string(server.conf()).unwrap()
}

const ONE_CHANGE: [&str; 3] = ["show status", "configure check \"DIR/bird.conf.new\"", "configure"];

#[tokio::test]
async fn a_change_is_checked_put_in_place_and_then_configured() {
    let server = Server::start(healthy);
    let routing = server.adapter(PATIENT);
    assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Reconfigured);
    assert_eq!(server.commands(), ONE_CHANGE);
    assert_eq!(server.taken(), [text(1)]);
    assert_eq!(std::fs::metadata(server.conf()).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_dir(server.dir.path()).unwrap().count(), 2, "no candidate is left");
}

#[tokio::test]
async fn after_an_agent_restart_the_same_text_is_configured_once() {
    let server = Server::start(healthy);
    for _ in 0..2 {
        let routing = server.adapter(PATIENT);
        assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Reconfigured);
        assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Unchanged);
    }
    assert_eq!(server.taken(), [text(1), text(1)]);
}

#[tokio::test]
async fn a_file_somebody_changed_or_removed_is_repaired() {
    let server = Server::start(healthy);
    let routing = server.adapter(PATIENT);
    routing.apply(&config(1)).await.unwrap();
    std::fs::write(server.conf(), "# mine now").unwrap();
    assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Reconfigured);
    std::fs::remove_file(server.conf()).unwrap();
    assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Reconfigured);
    assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Unchanged);
    assert_eq!(server.taken(), [text(1), text(1), text(1)]);
}

#[tokio::test]
async fn bird_is_not_configured_while_it_is_being_configured() {
    // Two rounds of being busy: one before the change, somebody else's, and one after it, ours.
    let mut asked = 0;
    let server = Server::start(move |command| match command {
        "show status" => {
            asked += 1;
            Answer::Say(if matches!(asked, 1 | 2 | 4) { BUSY } else { UP })
        }
        "configure" => Answer::Say("0002-Reading configuration\n0004 Reconfiguration in progress\n"),
        other => healthy(other),
    });
    let routing = server.adapter(PATIENT);
    assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Reconfigured);
    let (status, check) = ("show status", "configure check \"DIR/bird.conf.new\"");
    assert_eq!(server.commands(), [status, status, status, check, "configure", status, status]);
    assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Unchanged);
}

#[tokio::test]
async fn a_change_that_does_not_come_into_force_is_tried_again() {
    let stuck = Arc::new(AtomicBool::new(false));
    let server = Server::start({
        let stuck = stuck.clone();
        move |command| match command {
            "show status" => Answer::Say(if stuck.load(Ordering::SeqCst) { BUSY } else { UP }),
            "configure" => {
                stuck.store(true, Ordering::SeqCst);
                Answer::Say("0002-Reading configuration\n0004 Reconfiguration in progress\n")
            }
            other => healthy(other),
        }
    });
    let routing = server.adapter(flock_bird::Timing { reconfigure: HASTY.reconfigure, ..PATIENT });
    assert_eq!(routing.apply(&config(1)).await.unwrap_err().label(), "bird_timeout");
    assert_eq!(routing.apply(&config(1)).await.unwrap_err().label(), "bird_timeout");
    assert_eq!(server.taken().len(), 1, "not while the first one is in progress");
    stuck.store(false, Ordering::SeqCst);
    assert_eq!(routing.apply(&config(1)).await.unwrap_err().label(), "bird_timeout");
    assert_eq!(server.taken().len(), 2);
}

#[tokio::test]
async fn a_text_refused_by_the_check_leaves_no_trace() {
    let server = Server::start(|command| match verb(command) {
        "configure check" => Answer::Say("0002-Reading\n8002 F:1:1 syntax error\n"),
        _ => healthy(command),
    });
    std::fs::write(server.conf(), "before").unwrap();
    let error = server.adapter(PATIENT).apply(&config(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "routing daemon refuses the configuration: F:1:1 syntax error");
    assert_eq!(file(&server), "before");
    assert_eq!(std::fs::read_dir(server.dir.path()).unwrap().count(), 2, "no candidate is left");
    assert!(server.taken().is_empty());
}

#[tokio::test]
async fn a_text_refused_after_the_check_does_not_stay_in_place() {
    let mut refusing = true;
    let server = Server::start(move |command| match command {
        "configure" if std::mem::take(&mut refusing) => {
            Answer::Say("0002-Reading\n8002 F:1:1 syntax error\n")
        }
        other => healthy(other),
    });
    std::fs::write(server.conf(), "before").unwrap();
    let routing = server.adapter(PATIENT);
    assert_eq!(routing.apply(&config(1)).await.unwrap_err().label(), "bird_refused");
    assert_eq!(file(&server), "before");
    assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Reconfigured);
    assert_eq!(file(&server), text(1));
}

#[tokio::test]
async fn without_bird_the_file_is_put_in_place_for_its_start() {
    let server = Server::start(healthy);
    let nobody = server.dir.path().join("nobody.ctl");
    let routing = flock_bird::BirdSocket::new(&server.conf(), &nobody).unwrap().with_timing(PATIENT);
    for n in [1, 2] {
        assert_eq!(routing.apply(&config(n)).await.unwrap_err().label(), "bird_unreachable");
        assert_eq!(file(&server), text(n));
        let inode = || std::fs::metadata(server.conf()).unwrap().ino();
        let written = inode();
        assert_eq!(routing.apply(&config(n)).await.unwrap_err().label(), "bird_unreachable");
        assert_eq!(inode(), written, "asking again writes nothing");
    }
    // It has started by now, but who knows on which of the two.
    std::os::unix::fs::symlink(server.socket(), &nobody).unwrap();
    assert_eq!(routing.apply(&config(2)).await.unwrap(), Applied::Reconfigured);
    assert_eq!(routing.apply(&config(2)).await.unwrap(), Applied::Unchanged);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_told_with_its_path() {
    let server = Server::start(healthy);
    let conf = server.dir.path().join("missing/bird.conf");
    let routing = flock_bird::BirdSocket::new(&conf, &server.socket()).unwrap().with_timing(PATIENT);
    let error = routing.apply(&config(1)).await.unwrap_err();
    assert_eq!(error.label(), "bird_write");
    assert!(error.to_string().contains("missing/bird.conf.new"), "{error}");
    assert!(server.commands().is_empty());
    std::fs::create_dir(conf.parent().unwrap()).unwrap();
    std::fs::write(server.conf(), "").unwrap();
    assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Reconfigured);
}

#[tokio::test]
async fn changes_that_come_fast_are_made_as_one() {
    let server = Server::start(healthy);
    let spacing = Duration::from_millis(500);
    let routing = server.adapter(flock_bird::Timing { spacing, ..PATIENT });
    routing.apply(&config(1)).await.unwrap();
    let burst = [config(10), config(11), config(12)];
    let (oldest, middle, newest) =
        tokio::join!(routing.apply(&burst[0]), routing.apply(&burst[1]), routing.apply(&burst[2]));
    assert_eq!(oldest.unwrap(), Applied::Reconfigured);
    assert_eq!((middle.unwrap(), newest.unwrap()), (Applied::Unchanged, Applied::Unchanged));
    assert_eq!(server.taken(), [text(1), text(12)], "the first at once, the newest of the others for all");
}

#[tokio::test]
async fn a_change_taken_back_while_it_waits_is_not_made() {
    let server = Server::start(healthy);
    let spacing = Duration::from_millis(500);
    let routing = server.adapter(flock_bird::Timing { spacing, ..PATIENT });
    routing.apply(&config(1)).await.unwrap();
    let (there, back) = (config(2), config(1));
    let (there, back) = tokio::join!(routing.apply(&there), routing.apply(&back));
    assert_eq!((there.unwrap(), back.unwrap()), (Applied::Unchanged, Applied::Unchanged));
    assert_eq!(server.taken(), [text(1)]);
}

#[tokio::test]
async fn a_caller_that_goes_away_half_way_leaves_the_next_one_able() {
    for cut in ONE_CHANGE.map(verb) {
        let mut silent = true;
        let server = Server::start(move |command| {
            if verb(command) == cut && std::mem::take(&mut silent) {
                return Answer::Silence;
            }
            healthy(command)
        });
        let routing = server.adapter(PATIENT);
        let first = config(1);
        tokio::select! {
            _ = routing.apply(&first) => panic!("nobody answers {cut}"),
            () = server.heard(cut) => {}
        }
        assert_eq!(routing.apply(&config(1)).await.unwrap(), Applied::Reconfigured, "{cut}");
        assert_eq!(file(&server), text(1));
    }
}

#[tokio::test]
async fn status_is_made_of_the_daemon_and_its_sessions() {
    let server = Server::start(|command| match command {
        "show protocols all" => Answer::Say(include_str!("transcripts/show-protocols-all-2.0.12.txt")),
        "configure" => Answer::Say(DONE),
        other => healthy(other),
    });
    let status = server.adapter(PATIENT).status().await.unwrap();
    assert_eq!(status.daemon, "BIRD 2.0.12");
    let peers: Vec<String> = status.peers.iter().map(|row| row.peer.to_string()).collect();
    assert_eq!(peers, ["192.0.2.1", "192.0.2.77", "2001:db8:0:a::1"]);
}
