//! Real directories, changed the ways people, editors and tools change them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use flock_core::ports::{PodSource, PodSourceError, Readiness, Revision};

use crate::bench::{Bench, install, key, node, pod, pod_saying, says, soon};

#[tokio::test]
async fn what_is_there_is_read_before_open_returns() {
    let bench = Bench::with(|dir| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("a.yaml"), pod("a")).unwrap();
    });
    assert_eq!(bench.source.ready(), Readiness::Ready);
    assert!(bench.view().pods.contains_key(&key("a")));
    assert!(bench.view().problems.is_empty());
}

#[tokio::test]
async fn a_file_written_renamed_over_and_removed_is_followed() {
    let bench = Bench::new();
    fs::write(bench.path("a.yaml"), pod_saying("a", "one")).unwrap();
    bench.until_says("a", "one").await;
    // The same file, the same size.
    fs::write(bench.path("a.yaml"), pod_saying("a", "two")).unwrap();
    bench.until_says("a", "two").await;
    bench.install("a.yaml", pod_saying("a", "six"));
    bench.until_says("a", "six").await;
    fs::rename(bench.path("a.yaml"), bench.path("b.yml")).unwrap();
    bench.looked().await;
    bench.until_pods(&["a"]).await;
    fs::rename(bench.path("b.yml"), bench.path("b.yml.bak")).unwrap();
    bench.until_pods(&[]).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_content_until_it_is_repaired() {
    let bench = Bench::new();
    bench.install("a.yaml", format!("{}---\n{}", pod_saying("a", "one"), pod("b")));
    bench.install("z.yaml", pod("z"));
    bench.until_pods(&["a", "b", "z"]).await;

    bench.install("a.yaml", format!("{}---\nkind: [", pod_saying("a", "two")));
    let view = bench.until(|view| !view.problems.is_empty()).await;
    assert_eq!(says(&view, "a").as_deref(), Some("one"));
    assert_eq!(view.pods.len(), 3);
    let [problem] = &view.problems[..] else { panic!("{:?}", view.problems) };
    assert!(
        problem.starts_with("a.yaml:7: ") && problem.contains("its last good content stays"),
        "{problem}"
    );

    bench.install("a.yaml", pod_saying("a", "three"));
    let view = bench.until_says("a", "three").await;
    assert!(view.problems.is_empty(), "{:?}", view.problems);
    bench.until_pods(&["a", "z"]).await;
}

#[tokio::test]
async fn a_file_first_seen_broken_contributes_nothing_but_the_problem() {
    let bench = Bench::new();
    bench.install("a.yaml", format!("{}---\nkind: Pod\n", pod("a")));
    bench.install("b.yaml", pod("b"));
    let view = bench.until_pods(&["b"]).await;
    let view = if view.problems.is_empty() { bench.looked().await } else { view };
    assert_eq!(view.problems, ["a.yaml:6: is not a Kubernetes object: apiVersion is missing"]);
    bench.remove("a.yaml");
    bench.until(|view| view.problems.is_empty()).await;
}

#[tokio::test]
async fn a_config_map_volume_is_followed_through_its_links() {
    let bench = Bench::new();
    let publish = |version: &str, files: &[(&str, String)]| {
        let data = bench.path(&format!("..{version}"));
        fs::create_dir(&data).unwrap();
        for (name, text) in files {
            fs::write(data.join(name), text).unwrap();
        }
        symlink(&data, bench.path("..data_tmp")).unwrap();
        fs::rename(bench.path("..data_tmp"), bench.path("..data")).unwrap();
    };
    publish("v1", &[("a.yaml", pod_saying("a", "one")), ("b.yaml", pod("b"))]);
    for name in ["a.yaml", "b.yaml"] {
        symlink(Path::new("..data").join(name), bench.path(name)).unwrap();
    }
    bench.until_pods(&["a", "b"]).await;
    publish("v2", &[("a.yaml", pod_saying("a", "two")), ("b.yaml", pod("b"))]);
    fs::remove_dir_all(bench.path("..v1")).unwrap();
    bench.until_says("a", "two").await;
    bench.until_pods(&["a", "b"]).await;
}

#[tokio::test]
async fn what_editors_leave_behind_is_not_read() {
    let bench = Bench::new();
    for name in [
        ".a.yaml",
        ".a.yaml.swp",
        "#a.yaml#",
        "a.yaml~",
        "a.yaml.orig",
        "a.yaml.tmp",
        "4913",
        "yaml",
        ".yaml",
    ] {
        fs::write(bench.path(name), pod("leftover")).unwrap();
    }
    fs::create_dir(bench.path("sub")).unwrap();
    fs::write(bench.path("sub/a.yaml"), pod("nested")).unwrap();
    let view = bench.looked().await;
    assert!(view.pods.is_empty() && view.problems.is_empty(), "{view:?}");
}

#[tokio::test]
async fn what_is_no_readable_file_is_a_problem_and_nothing_hangs() {
    let bench = Bench::new();
    fs::create_dir(bench.path("dir.yaml")).unwrap();
    symlink("nowhere", bench.path("link.yaml")).unwrap();
    symlink("loop.yaml", bench.path("loop.yaml")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(bench.path("pipe.yaml")).status();
    let expected = if pipe.is_ok_and(|status| status.success()) { 4 } else { 3 };
    fs::File::create(bench.path("big.yaml")).unwrap().set_len((4 << 20) + 1).unwrap();
    fs::write(bench.path("latin.yaml"), b"a: b\nc: \xe9\n").unwrap();
    bench.install("good.yaml", pod("good"));
    let view = bench.looked().await;
    assert!(view.pods.contains_key(&key("good")));
    assert_eq!(view.problems.len(), expected + 2, "{:?}", view.problems);
    assert_eq!(view.problems[0], "big.yaml: is larger than 4 MiB");
    assert_eq!(view.problems[1], "dir.yaml: cannot be read: not a regular file");
    assert_eq!(view.problems[2], "latin.yaml:2: is not UTF-8");
    assert!(view.problems[3].starts_with("link.yaml: cannot be read: No such file"));
}

#[tokio::test]
async fn a_directory_that_appears_later_is_found() {
    let bench = Bench::with(|_| {});
    let starting = Readiness::Starting("the manifest directory does not exist");
    assert_eq!(bench.source.ready(), starting);
    assert!(bench.view().problems[0].starts_with("cannot read directory "), "{:?}", bench.view().problems);
    let error = soon(bench.source.pod(&key("a"))).await.unwrap_err();
    assert!(
        matches!(&error, PodSourceError::Unavailable { reason, .. } if reason.contains("does not exist"))
    );

    let seen = bench.view().revision;
    fs::create_dir(&bench.dir).unwrap();
    assert!(soon(bench.source.changed(seen)).await > seen, "coming ready wakes");
    assert_eq!(bench.source.ready(), Readiness::Ready);
    assert!(bench.view().problems.is_empty());
    bench.install("a.yaml", pod("a"));
    bench.until_pods(&["a"]).await;
}

#[tokio::test]
async fn a_directory_that_goes_keeps_its_content_and_is_found_again() {
    let bench = Bench::new();
    bench.install("a.yaml", pod("a"));
    bench.until_pods(&["a"]).await;
    let away = bench.dir.with_extension("away");
    fs::rename(&bench.dir, &away).unwrap();
    let view = bench.until(|view| !view.problems.is_empty()).await;
    assert!(view.pods.contains_key(&key("a")));
    assert!(view.problems[0].ends_with("; its last content stays"), "{:?}", view.problems);
    assert_eq!(bench.source.ready(), Readiness::Ready, "what was read once is still known");

    fs::create_dir(&bench.dir).unwrap();
    bench.until_pods(&[]).await;
    for round in ["one", "two"] {
        // Watched again: no rescan is due for seconds.
        bench.install("b.yaml", pod_saying("b", round));
        bench.until_says("b", round).await;
    }
    // What goes on in the directory that was moved away concerns nobody.
    install(&away.join("c.yaml"), pod("c"));
    assert!(!bench.looked().await.pods.contains_key(&key("c")));
}

#[tokio::test]
async fn a_directory_removed_and_made_anew_at_once_is_followed() {
    let bench = Bench::new();
    for round in 0..10 {
        fs::remove_dir_all(&bench.dir).unwrap();
        fs::create_dir(&bench.dir).unwrap();
        let word = format!("round-{round}");
        bench.install("a.yaml", pod_saying("a", &word));
        bench.until_says("a", &word).await;
    }
}

#[tokio::test]
async fn a_directory_behind_a_link_is_followed() {
    let bench = Bench::with(|dir| {
        let real = dir.with_extension("real");
        fs::create_dir(&real).unwrap();
        symlink(&real, dir).unwrap();
    });
    bench.install("a.yaml", pod("a"));
    bench.until_pods(&["a"]).await;
}

#[tokio::test]
async fn many_files_are_all_there() {
    let bench = Bench::new();
    for index in 0..1000 {
        fs::write(bench.path(&format!("{index:04}.yaml")), pod_saying(&format!("pod-{index:04}"), "one"))
            .unwrap();
    }
    bench.until(|view| view.pods.len() == 1000).await;
    let settled = bench.looked().await.revision;
    bench.install("0500.yaml", pod_saying("pod-0500", "two"));
    let view = bench.until_says("pod-0500", "two").await;
    assert_eq!(view.revision, Revision(settled.0 + 1));
    assert_eq!(view.pods.len(), 1000);
}

#[tokio::test]
async fn a_change_right_after_a_read_is_not_missed_for_its_time_stamp() {
    let bench = Bench::new();
    let path = bench.path("a.yaml");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all(pod_saying("a", "000").as_bytes()).unwrap();
    for round in 1..200 {
        // In place: the same inode, the same size, often within one tick of the clock behind time stamps.
        let word = format!("{round:03}");
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all(pod_saying("a", &word).as_bytes())
            .unwrap();
        assert_eq!(says(&*bench.looked().await, "a"), Some(word));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_unchanged_file_is_not_opened_again() {
    use notify::{EventKind, RecursiveMode, Watcher, event::AccessKind};

    let bench = Bench::new();
    let (events, seen) = std::sync::mpsc::channel::<notify::Result<notify::Event>>();
    let mut watcher = notify::recommended_watcher(events).unwrap();
    watcher.watch(&bench.dir, RecursiveMode::NonRecursive).unwrap();
    // Whether the file was opened up to now: everything before the removal of a marker has been reported.
    let opened = || {
        fs::write(bench.path("marker"), "").unwrap();
        fs::remove_file(bench.path("marker")).unwrap();
        let mut opened = false;
        loop {
            let event = seen.recv_timeout(std::time::Duration::from_mins(1)).unwrap().unwrap();
            let is = |name: &str| event.paths.iter().any(|path| path.ends_with(name));
            match event.kind {
                EventKind::Remove(_) if is("marker") => return opened,
                EventKind::Access(AccessKind::Open(_)) => opened |= is("a.yaml"),
                _ => {}
            }
        }
    };

    bench.install("a.yaml", pod("a"));
    bench.until_pods(&["a"]).await;
    assert!(opened());
    // As long as the time stamp is fresh it is read again; that ends by itself.
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    loop {
        bench.looked().await;
        if !opened() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "read over and over");
    }
    for _ in 0..10 {
        bench.looked().await;
    }
    assert!(!opened());
}

#[tokio::test]
async fn an_unreadable_file_is_tried_again() {
    let bench = Bench::new();
    bench.install("a.yaml", pod_saying("a", "one"));
    bench.until_says("a", "one").await;
    let target = bench.dir.with_extension("target");
    symlink(&target, bench.path("link")).unwrap();
    fs::rename(bench.path("link"), bench.path("a.yaml")).unwrap();
    let view = bench.until(|view| !view.problems.is_empty()).await;
    assert_eq!(says(&view, "a").as_deref(), Some("one"));
    fs::write(&target, pod_saying("a", "two")).unwrap();
    let view = bench.looked().await;
    assert_eq!(says(&view, "a").as_deref(), Some("two"));
    assert!(view.problems.is_empty());
}

#[tokio::test]
async fn a_source_without_a_usable_path_is_refused() {
    let error = flock_k8s::ManifestPodSource::open("", node()).unwrap_err();
    assert!(error.to_string().starts_with("manifest directory \"\" is not usable"), "{error}");
}
