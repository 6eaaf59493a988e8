mod flows;
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Node;
use crate::eligibility::pod_of;
use crate::ids::IfName;
use crate::ipam::Allocation;
use crate::policy::{LocalIdentity, LocalPod, Place, PodRules, Ruleset, Shut, Update, guard};
use crate::ports::{ClusterView, Firewall, FirewallError, PodEvent};

pub(super) use table::Table;

/// What the table has to hold.
struct Wanted {
    rules: Ruleset,
    /// It is what policies ask for, and not what was in force before.
    compiled: bool,
}

/// What a pass over the firewall did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirewallSynced {
    /// flock was told to leave the firewall alone.
    Off,
    /// It is as it should be, or policies are not known yet and what is there stays in force.
    Unchanged,
    /// A difference was written.
    Updated(Update),
    /// Everything was written.
    Replaced,
}

impl Node {
    /// Takes the firewall over from an earlier run. Where that left a table it stays in force until policies are known;
    /// else one is written at once in which every pod is shut.
    pub(super) async fn start_firewall(&self) -> Result<(), FirewallError> {
        let Some(firewall) = &self.ports.firewall else { return Ok(()) };
        let mut table = self.table.lock().await;
        let Some((rules, stamp)) = firewall.read().await? else {
            return table.replace(&**firewall, self.alike(&Place::Shut(Shut::Starting))).await;
        };
        table.seen = firewall.fingerprint().await?;
        table.stamp = stamp.unwrap_or(table.stamp);
        // The table of another version stays in force too, but it cannot be changed, only replaced.
        let is_like_ours = table::is_like(&rules.as_observed(stamp), firewall.observe().await?.as_ref());
        table.rules = is_like_ours.then_some(rules);
        table.read_back = true;
        if stamp.is_some() {
            return Ok(());
        }
        // Where no flow was judged nothing was refused either: the links that are there stay open, and new ones can be shut.
        table.write(&**firewall, &self.alike(&Place::Open)).await.map(drop)
    }

    /// The same for all pods, while policies are not known.
    fn alike(&self, place: &Place) -> Ruleset {
        let pods = self.local_pods(&self.ports.pods.snapshot()).into_iter().map(|pod| {
            let sources = pod.addresses.into_iter().chain(pod.anycast).collect();
            (pod.link, PodRules { sources, place: place.clone() })
        });
        Ruleset { judging: true, pods: pods.collect(), ..Ruleset::default() }
    }

    /// Makes the firewall hold what policies and pods ask for. Also forgets the flows of addresses that were released.
    pub async fn sync_firewall(&self) -> Result<FirewallSynced, FirewallError> {
        let Some(firewall) = &self.ports.firewall else { return Ok(FirewallSynced::Off) };
        let mut table = self.table.lock().await;
        table.narrowed |= std::mem::take(&mut self.state().rejudge);
        let outcome = self.write(&mut table, &**firewall).await;
        self.state().firewall = Some(outcome.as_ref().map(drop).map_err(ToString::to_string));
        self.forget_flows(&**firewall).await?;
        outcome
    }

    async fn write(
        &self,
        table: &mut Table,
        firewall: &dyn Firewall,
    ) -> Result<FirewallSynced, FirewallError> {
        let Some(Wanted { rules, compiled }) = self.wanted_rules(table) else {
            return Ok(FirewallSynced::Unchanged);
        };
        table.failed.retain(|chain, _| rules.chains.contains_key(chain));
        let mut outcome = table.write_what_can_be(firewall, &rules).await;
        if let Err(FirewallError::Refused(_)) = outcome {
            // The table may not be what it was taken for: now everything is written.
            outcome = table.write_what_can_be(firewall, &rules).await;
        }
        if let Err(FirewallError::Refused(_)) = outcome {
            table.find_failed(firewall, &rules).await?;
            outcome = table.write_what_can_be(firewall, &rules).await;
        }
        if compiled && outcome.is_ok() && std::mem::take(&mut table.read_back) {
            // Now that it is known what the chains should be, the next look compares them.
            table.seen.foreign = table.seen.foreign.wrapping_sub(1);
        }
        match table.failed.values().next().cloned() {
            None => outcome,
            Some(reason) => {
                outcome?;
                self.tell_of_failed(table, &reason).await;
                Err(FirewallError::Refused(reason))
            }
        }
    }

    /// Tells the owners of pods that are shut since a policy cannot be written, once each.
    async fn tell_of_failed(&self, table: &mut Table, reason: &str) {
        let shut = |pod: &PodRules| pod.place == Place::Shut(Shut::Failed);
        let links: BTreeSet<IfName> = table
            .rules
            .iter()
            .flat_map(|rules| &rules.pods)
            .filter(|(_, pod)| shut(pod))
            .map(|(link, _)| link.clone())
            .collect();
        let news: BTreeSet<IfName> = links.difference(&table.told).cloned().collect();
        table.told = links;
        let events: Vec<PodEvent> = {
            let state = self.state();
            let held = state.ipam.allocations().filter(|held| news.contains(&held.attachment.host_ifname()));
            let event = |held: &Allocation| {
                let message = format!(
                    "a NetworkPolicy that selects the pod cannot be written, so nothing but its own node reaches it: {reason}"
                );
                Some(PodEvent {
                    pod: held.pod.clone()?,
                    uid: held.uid.clone(),
                    reason: "PolicyNotWritten",
                    message,
                })
            };
            held.filter_map(event).collect()
        };
        for event in events {
            if let Err(error) = self.ports.status.event(&event).await {
                tracing::warn!(pod = %event.pod, op = "sync_firewall", %error, "event is lost");
            }
        }
    }

    /// What the table has to hold; `None` while what an earlier run wrote stays in force.
    fn wanted_rules(&self, table: &mut Table) -> Option<Wanted> {
        let (cluster, view) = (self.ports.pods.snapshot(), self.ports.pods.policies());
        let pods = self.local_pods(&cluster);
        if view.complete && !cluster.pods_pending {
            return Some(Wanted { rules: table.compiler.compile(&view, &pods), compiled: true });
        }
        // What is in force stays so, for the pods that are there. New ones were shut by their ADD.
        let known = table.rules.as_ref().filter(|_| !(table.lost && table.read_back));
        let Some(mut rules) = known.cloned() else {
            // What an earlier run wrote stays as it is, or is gone, and nobody knows what its chains were.
            let rules = || self.alike(&Place::Shut(Shut::Starting));
            return table.lost.then(|| Wanted { rules: rules(), compiled: false });
        };
        let links: BTreeSet<_> = pods.iter().map(|pod| &pod.link).collect();
        rules.pods.retain(|link, _| links.contains(link));
        rules.judging = true;
        Some(Wanted { rules, compiled: false })
    }

    /// Has the kernel ready for a pod before its link is there.
    pub(super) async fn guard(&self, allocation: &Allocation) -> Result<(), FirewallError> {
        let Some(firewall) = &self.ports.firewall else { return Ok(()) };
        let mut table = self.table.lock().await;
        let guard = {
            let (cluster, view) = (self.ports.pods.snapshot(), self.ports.pods.policies());
            table.guard_for(guard(&view, &local_pod(allocation, &cluster)))
        };
        // Without judging nothing is shut, whatever the sets say: policies are there that the table does not know yet.
        let judges = table.rules.as_ref().is_none_or(|rules| rules.judging);
        if guard.shut && !judges {
            self.write(&mut table, &**firewall).await?;
        }
        match firewall.guard(&guard).await {
            Err(FirewallError::Missing) => {
                table.lost = true;
                self.write(&mut table, &**firewall).await?;
                firewall.guard(&guard).await?;
            }
            outcome => outcome?,
        }
        table.narrowed |= guard.shut && table.knows(&guard.link);
        if let Some(rules) = &mut table.rules {
            guard.apply(rules);
        }
        Ok(())
    }

    /// Looks whether somebody else has changed the table, in a few microseconds unless somebody has. Where it is not
    /// what was written any more it is written anew by the next pass; says what was found.
    pub async fn watch_firewall(&self, thoroughly: bool) -> Result<Option<String>, FirewallError> {
        let Some(firewall) = &self.ports.firewall else { return Ok(None) };
        let mut table = self.table.lock().await;
        let seen = firewall.fingerprint().await?;
        let found = if seen.table.is_none() {
            Some("the nftables table inet flock was removed".to_owned())
        } else if seen.table != table.seen.table {
            Some("the nftables table inet flock was replaced".to_owned())
        } else if seen.foreign != table.seen.foreign || thoroughly {
            table.differs(firewall.observe().await?)
        } else {
            None
        };
        table.seen = seen;
        if found.is_some() {
            table.lost = true;
            self.wake_firewall();
        }
        Ok(found)
    }

    /// Tries again what nft has refused.
    pub async fn retry_firewall(&self) {
        let mut table = self.table.lock().await;
        if !std::mem::take(&mut table.failed).is_empty() {
            self.wake_firewall();
        }
    }

    /// Wakes the loop that keeps the firewall.
    pub(super) fn wake_firewall(&self) {
        self.firewall_changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Wakes when a local change asks for another look at the firewall.
    pub fn firewall_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.firewall_changes.subscribe()
    }

    pub(super) fn local_pods(&self, cluster: &ClusterView) -> Vec<LocalPod> {
        // Those that are leaving too: their links are there until the kernel has let go.
        self.state().ipam.allocations().map(|held| local_pod(held, cluster)).collect()
    }
}

/// A pod of this node, as policies see it.
pub(super) fn local_pod(held: &Allocation, cluster: &ClusterView) -> LocalPod {
    let identity = match (pod_of(held, cluster), &held.pod, &held.uid) {
        (Some(pod), Some(_), _) | (Some(pod), None, Some(_)) => LocalIdentity::Pod {
            key: pod.key.clone(),
            labels: Arc::clone(&pod.labels),
            ports: Arc::clone(&pod.ports),
            ended: pod.ended,
        },
        (None, Some(key), _) => LocalIdentity::Unknown { namespace: Some(key.namespace().to_owned()) },
        (None, None, Some(_)) => LocalIdentity::Unknown { namespace: None },
        (_, None, None) => LocalIdentity::Nameless,
    };
    LocalPod {
        link: held.attachment.host_ifname(),
        addresses: held.held().collect(),
        anycast: held.anycast.clone(),
        identity,
    }
}
