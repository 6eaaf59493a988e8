//! `flock-agent plan` as a process: what it reads, and how it ends.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::object::node_config;

const POD: &str = "\napiVersion: v1\nkind: Pod\nmetadata: { name: web }\n";
const BAD_POD: &str = "\napiVersion: v1\nkind: Pod\nmetadata: { name: bad, annotations: { flock.fritzlab.net/ipv4: \"no\" } }\n";

fn plan(dir: &Path, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
    // Nothing it needs comes from around it.
    command.arg("plan").args(args).current_dir(dir).env_clear();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A plan that does not want it may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn exit_status_tells_good_from_bad_from_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("good")).unwrap();
    fs::write(dir.path().join("good/node.yaml"), node_config().to_string()).unwrap();
    fs::write(dir.path().join("good/pod.yml"), POD).unwrap();
    fs::write(dir.path().join("good/notes.txt"), "not: [a manifest").unwrap();
    fs::write(dir.path().join("bad.yaml"), BAD_POD).unwrap();
    fs::write(dir.path().join("broken.yaml"), "a: [").unwrap();

    // Arguments, standard input, exit status, and what is said.
    let table: [(&[&str], &str, i32, &[&str]); 11] = [
        (&["-f", "good"], "", 0, &["pod default/web on n1\n", "1 pod: 1 would be attached"]),
        (&["-f", "good/node.yaml", "good/pod.yml"], "", 0, &["1 pod: 1 would be attached"]),
        (&["-f", "good/node.yaml", "--filename", "-"], POD, 0, &["1 pod: 1 would be attached"]),
        (&["-f", "good", "-o", "json"], "", 0, &["\"pod\": \"default/web\"", "\"problems\": []"]),
        (&["-f", "good", "bad.yaml"], "", 1, &["flock.fritzlab.net/ipv4 \"no\"", "default/web on n1"]),
        (&["-f", "good", "broken.yaml"], "", 1, &["problem: broken.yaml:", "default/web on n1"]),
        (&["-f", "good", "--node-name", "n2"], "", 1, &["there is no NodeConfig of n2"]),
        (&["-f", "good", "gone", "lost"], "", 2, &["cannot read gone: ", "cannot read lost: "]),
        (&["-f", "good", "--node-name", "N"], "", 2, &["node name \"N\""]),
        (&[], "", 2, &["--filename"]),
        (&["-f", "-"], "", 0, &["0 pods: nothing to plan"]),
    ];
    for (args, input, status, said) in table {
        let output = plan(dir.path(), args, input);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{args:?}: {out}{err}");
        let text = if status == 2 { err } else { out };
        for part in said {
            assert!(text.contains(part), "{args:?} does not say {part:?}: {text}");
        }
    }
}

const POLICIES: &str = r"
apiVersion: v1
kind: List
items:
  - { apiVersion: v1, kind: Pod, metadata: { namespace: shop, name: web, labels: { app: web } } }
  - { apiVersion: v1, kind: Pod, metadata: { namespace: shop, name: db, labels: { app: db } } }
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: { namespace: shop, name: db }
    spec:
      podSelector: { matchLabels: { app: db } }
      ingress:
        - from: [{ podSelector: { matchLabels: { app: web } } }]
          ports: [{ port: 5432 }]
";

#[test]
fn a_plan_tells_whether_policies_let_a_flow_pass() {
    let dir = tempfile::tempdir().unwrap();
    let table = [
        ("shop/web", "tcp/5432", 0, "admitted by shop/db, ingress[0]"),
        ("shop/web", "tcp/80", 1, "refused: no ingress rule of shop/db admits it"),
        ("203.0.113.9", "tcp/5432", 1, "does not pass"),
        ("shop/nobody", "tcp/5432", 1, "pod shop/nobody is not known here"),
        ("shop/web", "tcp", 1, "is no protocol and port: write tcp/PORT"),
    ];
    for (from, port, status, said) in table {
        let args = ["-f", "-", "--from", from, "--to", "shop/db", "--port", port];
        let output = plan(dir.path(), &args, POLICIES);
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{from} {port}: {text}");
        assert!(text.contains(said), "{from} {port} does not say {said:?}: {text}");
    }
}
