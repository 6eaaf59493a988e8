use std::collections::BTreeSet;

use flock_cni::wire::{AddedIp, Call, Outcome, Reply};

use crate::agent::{Answer, FakeAgent, added};
use crate::run::{finish, verb};

#[test]
fn fifty_executions_at_once_get_their_own_answers() {
    let agent = FakeAgent::start(|request| {
        let Call::Add(add) = &request.call else { panic!("unexpected {request:?}") };
        let mut added = added();
        added.ips = vec![AddedIp {
            address: format!("2001:db8:f001::{}", add.attachment.container_id).parse().unwrap(),
            gateway: "fe80::1".parse().unwrap(),
        }];
        Answer::Say(Outcome::Ok(Reply::Added(added)))
    });
    let children: Vec<_> = (0..50)
        .map(|id: u8| {
            let id = format!("{id:x}");
            (verb("ADD", "1.0.0", agent.socket()).env("CNI_CONTAINERID", &id).spawn(), id)
        })
        .collect();
    for (child, id) in children {
        let result = finish(child).document();
        assert_eq!(result["ips"][0]["address"], format!("2001:db8:f001::{id}/128").replace("::0/", "::/"));
    }
    let asked: BTreeSet<_> = agent.requests().iter().map(|request| format!("{:?}", request.call)).collect();
    assert_eq!(asked.len(), 50);
}
