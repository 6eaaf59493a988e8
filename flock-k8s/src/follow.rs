//! One kind of objects, followed for ever: listed, then watched from there on.
//!
//! ```text
//!            +--- pause <---- failure --------------------------+
//!            v                                                  |
//!          list ----> watch ---- ends, breaks, falls silent --> watch from the last version
//!            ^          |
//!            +--- pause + the API server says that it cannot go on from there (410 and whatever else)
//! ```
//!
//! What was said last stays in force meanwhile. A pause grows with each failure and is never the same on two nodes; a
//! watch that ends as soon as it has begun is a failure too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Error, Resource};

use crate::collection::Seen;
use crate::informer::{Shared, Timing};
use crate::object::Stripped;
use crate::pause::Pause;
use crate::watched::Watched;

/// Beyond the time it was asked for, a watch gets this much to say that it is over.
const GRACE: Duration = Duration::from_secs(5);

/// A watch that lived shorter has failed, whatever it said.
const BRIEF: Duration = Duration::from_secs(1);

/// What it takes to follow anything.
#[derive(Clone)]
pub(crate) struct Follower {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    pub(crate) timing: Timing,
}

/// Changes that show together, where so many have come at once.
const TOGETHER: usize = 256;

/// An object by name, and what it has become; `None`: it is gone.
type News<K> = (String, Option<Seen<K>>);

/// Why a list or a watch came to nothing.
struct Failure {
    reason: String,
    /// The API server did not answer the question.
    away: bool,
    /// A watch may go on from the version it has.
    resume: bool,
    /// The API server does not know the kind.
    absent: bool,
}

impl Failure {
    /// Nobody said anything.
    fn silence(reason: String) -> Self {
        Self { reason, away: true, resume: true, absent: false }
    }

    /// Something that is no answer.
    fn nonsense(reason: &str) -> Self {
        Self { reason: reason.to_owned(), away: true, resume: false, absent: false }
    }

    fn of(error: &Error) -> Self {
        let reason = causes(error);
        match error {
            // Where a kind is not known there is no object of it; all else says nothing about the objects.
            Error::Api(status) => {
                let absent = status.code == 404;
                Self { reason, away: !absent, resume: status.code == 429, absent }
            }
            Error::SerdeError(_) | Error::FromUtf8(_) => {
                Self { reason, away: true, resume: false, absent: false }
            }
            _ => Self::silence(reason),
        }
    }
}

/// An error with what led to it: what a TLS handshake failed for stands at the end.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = cause.source();
    }
    text
}

impl Follower {
    /// Keeps one collection up to date, for ever. `fields` selects the objects.
    pub(crate) async fn follow<K: Watched>(self, fields: Option<String>)
    where
        Stripped<K>: Resource<DynamicType = ()>,
    {
        let api = Api::<Stripped<K>>::all(self.client.clone());
        let mut pause = Pause::new(self.timing.pause);
        let (mut failing, mut absent) = (false, false);
        let mut version: Option<String> = None;
        loop {
            let outcome = match &mut version {
                None => self.list(&api, fields.as_deref()).await.map(|listed| version = Some(listed)),
                Some(version) => {
                    let began = Instant::now();
                    let outcome = self.watch(&api, fields.as_deref(), version).await;
                    if began.elapsed() >= BRIEF.min(self.timing.watch / 2) {
                        pause.reset();
                    } else if outcome.is_ok() {
                        tracing::debug!(kind = K::KIND, "watch ended at once");
                        tokio::time::sleep(pause.next()).await;
                    }
                    outcome
                }
            };
            let Err(failure) = outcome else {
                if std::mem::take(&mut absent) {
                    tracing::info!(kind = K::KIND, "kind is installed");
                }
                if std::mem::take(&mut failing) {
                    tracing::info!(kind = K::KIND, "the API server answers again");
                }
                continue;
            };
            if K::OPTIONAL && failure.absent && version.is_none() {
                failing = false;
                self.note_absence::<K>(std::mem::replace(&mut absent, true));
                tokio::time::sleep(self.timing.absent_pause()).await;
                continue;
            }
            if !std::mem::replace(&mut failing, true) {
                let (kind, error) = (K::KIND, &failure.reason);
                tracing::warn!(kind, error, "watch interrupted; what it said last stays in force");
            }
            if !failure.resume {
                version = None;
            }
            self.shared.change(|index| index.set_away(failure.away));
            tokio::time::sleep(pause.next()).await;
        }
    }

    /// Has no objects of a kind the API server does not know.
    fn note_absence<K: Watched>(&self, is_known: bool) {
        let mut forgotten = 0;
        self.shared.change(|index| {
            index.set_away(false);
            forgotten = K::place(index).absent();
        });
        let (kind, version) = (K::KIND, K::VERSION);
        if forgotten > 0 {
            tracing::warn!(
                kind,
                version,
                forgotten,
                "kind is no longer installed; its objects have no effect"
            );
        } else if !is_known {
            tracing::info!(kind, version, "kind is not installed");
        }
    }

    /// Reads everything; the version to watch from.
    async fn list<K: Watched>(&self, api: &Api<Stripped<K>>, fields: Option<&str>) -> Result<String, Failure>
    where
        Stripped<K>: Resource<DynamicType = ()>,
    {
        self.shared.prepare(|index| K::place(index).begin());
        let mut params = ListParams::default().limit(K::PAGE);
        params.field_selector = fields.map(str::to_owned);
        loop {
            // A page that keeps trickling would never be given up for its silence.
            let page = match tokio::time::timeout(self.timing.page, api.list(&params)).await {
                Err(_) => {
                    let longest = self.timing.page.as_secs();
                    return Err(Failure::silence(format!("no list within {longest} s")));
                }
                Ok(page) => page.map_err(|error| Failure::of(&error))?,
            };
            self.shared.prepare(|index| {
                for object in page.items {
                    K::place(index).list(object.key(), object.view);
                }
            });
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_some() {
                continue;
            }
            let version = page.metadata.resource_version.filter(|version| !version.is_empty());
            let version = version.ok_or_else(|| Failure::nonsense("a list without a resource version"))?;
            self.shared.change(|index| {
                index.set_away(false);
                K::place(index).end();
            });
            return Ok(version);
        }
    }

    /// Takes changes over until the watch is over; `version` moves on with them.
    async fn watch<K: Watched>(
        &self,
        api: &Api<Stripped<K>>,
        fields: Option<&str>,
        version: &mut String,
    ) -> Result<(), Failure>
    where
        Stripped<K>: Resource<DynamicType = ()>,
    {
        let mut params = WatchParams::default().timeout(self.timing.watch_seconds());
        params.field_selector = fields.map(str::to_owned);
        let longest = self.timing.watch + GRACE;
        let silent = || Failure::silence(format!("a watch was silent for {} s", longest.as_secs()));
        let begin = tokio::time::timeout(longest, api.watch(&params, version)).await.map_err(|_| silent())?;
        let events = begin.map_err(|error| Failure::of(&error))?;
        let mut events = std::pin::pin!(events.ready_chunks(TOGETHER));
        while let Some(events) = tokio::time::timeout(longest, events.next()).await.map_err(|_| silent())? {
            let mut news = Vec::new();
            let outcome = events.into_iter().try_for_each(|event| hear(event, version, &mut news));
            if !news.is_empty() {
                self.shared.change(|index| {
                    let objects = K::place(index);
                    for (name, object) in news {
                        match object {
                            Some(object) => objects.apply(name, object),
                            None => objects.delete(&name),
                        }
                    }
                });
            }
            outcome?;
        }
        Ok(())
    }
}

/// Takes note of an event: of what it says of an object, and of the version it moves the watch on to.
fn hear<K: Watched>(
    event: Result<WatchEvent<Stripped<K>>, Error>,
    version: &mut String,
    news: &mut Vec<News<K>>,
) -> Result<(), Failure>
where
    Stripped<K>: Resource<DynamicType = ()>,
{
    let (object, gone) = match event.map_err(|error| Failure::of(&error))? {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
        WatchEvent::Deleted(object) => (object, true),
        WatchEvent::Bookmark(bookmark) => {
            *version = bookmark.metadata.resource_version;
            return Ok(());
        }
        // Whatever it is, asking for the same again would bring the same.
        WatchEvent::Error(status) => {
            let away = status.code >= 500;
            return Err(Failure { reason: status.to_string(), away, resume: false, absent: false });
        }
    };
    let seen = object.meta().resource_version.clone().filter(|seen| !seen.is_empty());
    *version = seen.ok_or_else(|| Failure::nonsense("an object without a resource version"))?;
    news.push((object.key(), (!gone).then_some(object.view)));
    Ok(())
}
