//! What deploy/daemonset.yaml says about its containers. All of it that a container runtime is told: a key that
//! is not known here is an error, so that nothing of the manifest goes untried in silence.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The pod template of the `DaemonSet`.
#[derive(Debug)]
pub(super) struct Template {
    /// The image of all its containers.
    pub(super) image: String,
    pub(super) install: Container,
    pub(super) agent: Container,
    pub(super) bird: Container,
    volumes: Vec<Volume>,
}

impl Template {
    /// Reads it.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let DaemonSet { spec: Spec { template: Pod { spec } } } = serde_saphyr::from_str(text)?;
        ensure!(spec.host_network, "the check only knows containers in the network of the host");
        ensure!(
            spec.security_context.run_as_user == 0 && spec.security_context.run_as_group == 0,
            "the check only knows containers that run as root"
        );
        let profile = &spec.security_context.seccomp_profile.kind;
        ensure!(profile == "RuntimeDefault", "the check does not know the seccomp profile {profile}");
        let all = spec.init_containers.into_iter().chain(spec.containers);
        let mut all: Vec<_> = all.collect();
        let mut take = |name: &str| {
            let index = all.iter().position(|container| container.name == name);
            Ok::<_, anyhow::Error>(all.remove(index.with_context(|| format!("no container {name}"))?))
        };
        let (install, agent, bird) = (take("install")?, take("agent")?, take("bird")?);
        ensure!(all.is_empty(), "there are more containers than install, agent and bird");
        for container in [&install, &agent, &bird] {
            container.security_context.check().with_context(|| container.name.clone())?;
            ensure!(container.image == install.image, "the containers have different images");
        }
        Ok(Self { image: install.image.clone(), install, agent, bird, volumes: spec.volumes })
    }

    /// The directory of the host behind a mount, and whether it is to be made where it is missing. `None` for what
    /// only a cluster has.
    pub(super) fn host_path(&self, mount: &Mount) -> Result<Option<(&Path, bool)>> {
        let volume = self.volumes.iter().find(|volume| volume.name == mount.name);
        let volume = volume.with_context(|| format!("there is no volume {}", mount.name))?;
        let Some(host) = &volume.host_path else { return Ok(None) };
        match host.kind.as_str() {
            "DirectoryOrCreate" => Ok(Some((&host.path, true))),
            "Directory" => Ok(Some((&host.path, false))),
            other => bail!("the check does not know hostPath.type {other}"),
        }
    }
}

#[derive(Debug, Deserialize)]
struct DaemonSet {
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Spec {
    template: Pod,
}

#[derive(Debug, Deserialize)]
struct Pod {
    spec: PodSpec,
}

/// What is ignored here says on which nodes the pod is and how it gets there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodSpec {
    #[serde(rename = "affinity")]
    _affinity: IgnoredAny,
    #[serde(rename = "tolerations")]
    _tolerations: IgnoredAny,
    #[serde(rename = "priorityClassName")]
    _priority_class_name: IgnoredAny,
    #[serde(rename = "serviceAccountName")]
    _service_account_name: IgnoredAny,
    #[serde(rename = "automountServiceAccountToken")]
    _automount_service_account_token: IgnoredAny,
    #[serde(rename = "dnsPolicy")]
    _dns_policy: IgnoredAny,
    #[serde(rename = "terminationGracePeriodSeconds")]
    _termination_grace_period_seconds: IgnoredAny,
    host_network: bool,
    security_context: PodSecurity,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
    volumes: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodSecurity {
    run_as_user: u32,
    run_as_group: u32,
    seccomp_profile: SeccompProfile,
    /// Nothing on a Debian.
    #[serde(rename = "seLinuxOptions")]
    _se_linux_options: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeccompProfile {
    #[serde(rename = "type")]
    kind: String,
}

/// A container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Container {
    pub(super) name: String,
    image: String,
    #[serde(rename = "imagePullPolicy")]
    _image_pull_policy: IgnoredAny,
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<Env>,
    pub(super) security_context: Security,
    pub(super) startup_probe: Option<Probe>,
    pub(super) liveness_probe: Option<Probe>,
    pub(super) readiness_probe: Option<Probe>,
    pub(super) resources: Resources,
    pub(super) volume_mounts: Vec<Mount>,
}

/// An environment variable: one of the two says what it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Env {
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) value_from: Option<ValueFrom>,
}

/// Where a value comes from.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ValueFrom {
    pub(super) field_ref: FieldRef,
}

/// A field of the pod.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FieldRef {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    pub(super) field_path: String,
}

/// What a container may do.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Security {
    allow_privilege_escalation: bool,
    read_only_root_filesystem: bool,
    capabilities: Capabilities,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Capabilities {
    drop: Vec<String>,
    add: Vec<String>,
}

impl Security {
    /// Everything else is the same for all containers, and the check relies on it.
    fn check(&self) -> Result<()> {
        ensure!(!self.allow_privilege_escalation, "allowPrivilegeEscalation must be false");
        ensure!(self.read_only_root_filesystem, "readOnlyRootFilesystem must be true");
        ensure!(self.capabilities.drop == ["ALL"], "capabilities.drop must be [ALL]");
        Ok(())
    }

    /// The capabilities it has, in the kernel's names.
    pub(super) fn capabilities(&self) -> impl Iterator<Item = String> {
        self.capabilities.add.iter().map(|name| format!("CAP_{name}"))
    }
}

/// What the kubelet asks a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probe {
    pub(super) http_get: Option<HttpGet>,
    pub(super) exec: Option<Exec>,
}

/// An HTTP request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpGet {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

/// A command in the container.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    pub(super) command: Vec<String>,
}

/// How much a container may use.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    #[serde(rename = "requests")]
    _requests: IgnoredAny,
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    memory: String,
}

impl Resources {
    /// The limit of memory in bytes.
    pub(super) fn memory(&self) -> Result<u64> {
        let text = &self.limits.memory;
        let number = text.strip_suffix("Mi").and_then(|number| number.parse::<u64>().ok());
        Ok(number.with_context(|| format!("the check does not know limits.memory {text}"))? << 20)
    }
}

/// A volume at a path.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    name: String,
    #[serde(rename = "mountPath")]
    pub(super) path: PathBuf,
    #[serde(default)]
    pub(super) read_only: bool,
    #[serde(rename = "mountPropagation")]
    propagation: Option<String>,
}

impl Mount {
    /// The options of the mount, as the part of containerd that the kubelet speaks to sets them.
    pub(super) fn options(&self) -> Result<String> {
        let propagation = match self.propagation.as_deref() {
            None | Some("None") => "rprivate",
            Some("HostToContainer") => "rslave",
            Some(other) => bail!("the check does not know mountPropagation {other}"),
        };
        Ok(format!("rbind:{propagation}:{}", if self.read_only { "ro" } else { "rw" }))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Volume {
    name: String,
    host_path: Option<HostPath>,
    #[serde(rename = "projected")]
    _projected: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostPath {
    path: PathBuf,
    #[serde(rename = "type")]
    kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon_set() -> String {
        fs::read_to_string(crate::cmd::root().join("deploy/daemonset.yaml")).unwrap()
    }

    #[test]
    fn manifest_is_read_as_it_is_written() {
        let template = Template::parse(&daemon_set()).unwrap();
        let added: Vec<_> = template.agent.security_context.capabilities().collect();
        assert_eq!(added, ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert_eq!(template.install.resources.memory().unwrap(), 64 << 20);
        let run = &template.bird.volume_mounts[0];
        assert_eq!(template.host_path(run).unwrap(), Some((Path::new("/run/flock"), true)));
    }

    #[test]
    fn what_the_check_would_not_try_is_an_error() {
        let text = daemon_set();
        for (from, to) in [
            ("hostNetwork: true", "hostNetwork: false"),
            ("runAsUser: 0", "runAsUser: 1"),
            ("type: RuntimeDefault", "type: Unconfined"),
            ("drop: [ALL]", "drop: []"),
            ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
            ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: true\n            procMount: Unmasked"),
            ("hostNetwork: true", "hostNetwork: true\n      hostPID: true"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert!(Template::parse(&changed).is_err(), "{to}");
        }
    }
}
