use std::net::IpAddr;
use std::sync::Arc;

use super::attach::AttachRequest;
use super::error::AttachError;
use super::lock::AttachmentGuard;
use super::{Node, State};
use crate::annotation::PodIntent;
use crate::claims::Surroundings;
use crate::config::NodeConfig;
use crate::iid::Field;
use crate::ipam::{IpamError, Request};
use crate::pod_plan::{PlanError, PodFacts, PodPlan, pod_plan};
use crate::ports::{ClusterView, PodEvent, PodSourceError, PodView, Retry};

impl Node {
    /// What an ADD asks of the allocator: the pod's annotations, held against the configuration.
    pub(super) async fn ask(
        &self,
        guard: &AttachmentGuard,
        request: &AttachRequest,
        config: &NodeConfig,
    ) -> Result<Request, AttachError> {
        let (intent, pod) = self.intent(request).await?;
        let view = self.ports.pods.snapshot();
        let facts = PodFacts {
            key: request.pod.as_ref(),
            image: pod.as_ref().and_then(|pod| pod.image.as_deref()),
            namespace_labels: request.pod.as_ref().and_then(|key| view.namespaces.get(key.namespace())),
        };
        let plan = self.state().plan(&intent, facts, config, &view)?;
        Ok(Request {
            pod: request.pod.clone(),
            uid: request.uid.clone(),
            netns: Some(request.netns.clone()),
            ..plan.request(guard.attachment().clone())
        })
    }

    /// The annotations, from the runtime or else the pod; and the pod itself where something of it is needed.
    async fn intent(
        &self,
        request: &AttachRequest,
    ) -> Result<(PodIntent, Option<Arc<PodView>>), AttachError> {
        let Some(annotations) = &request.annotations else {
            let pod = self.pod(request).await?;
            let intent = pod.as_ref().map(|pod| PodIntent::parse(&pod.annotations)).transpose()?;
            return Ok((intent.unwrap_or_default(), pod));
        };
        let intent = PodIntent::parse(annotations)?;
        // Only the image is not among what the runtime tells.
        let pod = if intent.ip_algo.contains(&Field::Image) { self.pod(request).await? } else { None };
        Ok((intent, pod))
    }

    /// The pod that is meant, from the view if it shows that one, else read directly.
    async fn pod(&self, request: &AttachRequest) -> Result<Option<Arc<PodView>>, PodSourceError> {
        let Some(key) = &request.pod else { return Ok(None) };
        let uid = request.uid.as_ref();
        let view = self.ports.pods.snapshot();
        let is_meant = |pod: &Arc<PodView>| pod.is(uid) && view.is_own(pod);
        match view.pods.get(key).filter(|pod| is_meant(pod)) {
            Some(pod) => Ok(Some(Arc::clone(pod))),
            None => Ok(self.ports.pods.pod(key).await?.filter(is_meant)),
        }
    }

    /// Tells the owner of a pod why it gets no network, where that is for the owner to change.
    pub(super) async fn tell_owner(&self, request: &AttachRequest, error: &AttachError) {
        let (Some(pod), true) = (request.pod.clone(), is_owners(error)) else { return };
        let uid = request.uid.clone();
        let event = PodEvent { pod, uid, reason: "NetworkRefused", message: error.to_string() };
        if let Err(error) = self.ports.status.event(&event).await {
            tracing::warn!(pod = %event.pod, op = "add", %error, "event is lost");
        }
    }
}

impl State {
    /// What a pod shall get on this node, held against everything that is around.
    pub(super) fn plan(
        &self,
        intent: &PodIntent,
        pod: PodFacts<'_>,
        config: &NodeConfig,
        view: &ClusterView,
    ) -> Result<PodPlan, PlanError> {
        let own: Vec<IpAddr> = self.facts.addresses.iter().map(|own| own.address.addr()).collect();
        let around =
            Surroundings { node: &own, peers: &config.bgp.peers, foreign_pools: &view.foreign_pools };
        pod_plan(intent, pod, config, &around)
    }
}

/// Whether the pod asks for something it cannot have.
fn is_owners(error: &AttachError) -> bool {
    match error {
        AttachError::Annotation(_) => true,
        // What is not known yet is nobody's to change.
        AttachError::Plan(error) => error.retry() == Retry::Never,
        AttachError::Ipam(error) => matches!(
            error,
            IpamError::NoMatch { .. }
                | IpamError::Reserved { .. }
                | IpamError::Unusable { .. }
                | IpamError::Held { .. }
                | IpamError::Anycast { .. }
                | IpamError::Embedding(_)
        ),
        _ => false,
    }
}
