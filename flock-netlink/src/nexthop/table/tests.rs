use super::*;

const BASE: u32 = *IDS.start();

fn way(host: u8) -> Way {
    Way { gateway: [0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()].into(), ifindex: host.into() }
}

/// The same of IPv4.
fn way4(host: u8) -> Way {
    Way { gateway: [192, 0, 2, host].into(), ..way(host) }
}

fn of_way(id: u32, protocol: u8, host: u8) -> Object {
    Object { id, protocol, kind: Kind::Way(way(host)) }
}

fn entry(id: u32, weight: Weight) -> Entry {
    Entry { id, weight: weight.number() }
}

fn of_group(id: u32, protocol: u8, form: Form, entries: &[Entry]) -> Object {
    Object { id, protocol, kind: Kind::Group(form, entries.to_vec()) }
}

fn ifname(index: u32) -> Option<IfName> {
    IfName::parse(&format!("if{index}")).ok()
}

fn members(hosts: &[u8]) -> Vec<(Way, Weight)> {
    hosts.iter().map(|host| (way(*host), Weight::Full)).collect()
}

/// Ways to hosts 1 and 2, and a group of both.
fn pair() -> Vec<Object> {
    let both = [entry(BASE, Weight::Full), entry(BASE + 1, Weight::Full)];
    vec![of_way(BASE, 118, 1), of_way(BASE + 1, 118, 2), of_group(BASE + 2, 118, Form::RESILIENT, &both)]
}

fn changes(objects: Vec<Object>, kept: &[u32]) -> Changes {
    Changes::new(Table::new(objects), Form::RESILIENT, kept.iter().copied())
}

#[test]
fn only_a_group_as_flock_makes_it_has_members() {
    let read = |objects: Vec<Object>, form| Table::new(objects).members(BASE + 2, form, ifname);
    let found = read(pair(), Form::RESILIENT).unwrap();
    let names: Vec<_> = found.iter().map(|member| member.link.to_string()).collect();
    assert_eq!(names, ["if1", "if2"]);
    assert_eq!(read(pair(), Form::Plain), None);
    let stranger = |id, protocol| {
        let entries = [entry(BASE, Weight::Full), entry(id, Weight::Full)];
        [
            pair()[..1].to_vec(),
            vec![of_way(id, protocol, 2), of_group(BASE + 2, 118, Form::RESILIENT, &entries)],
        ]
        .concat()
    };
    for (id, protocol) in [(BASE + 1, 4), (7, 118)] {
        assert_eq!(read(stranger(id, protocol), Form::RESILIENT), None, "{id} {protocol}");
    }
    let mut odd = pair();
    odd[2] = of_group(BASE + 2, 118, Form::RESILIENT, &[Entry { id: BASE, weight: 7 }]);
    assert_eq!(read(odd, Form::RESILIENT), None);
    let mut small = pair();
    let form = Form::Resilient { buckets: 128, idle: 6000, unbalanced: 0 };
    small[2] = of_group(BASE + 2, 118, form, &[entry(BASE, Weight::Full)]);
    assert_eq!(read(small, Form::RESILIENT), None);
}

#[test]
fn an_unchanged_group_is_not_written() {
    let mut changes = changes(pair(), &[]);
    let group = changes.group(Some(BASE + 2), &members(&[1, 2])).unwrap();
    assert_eq!((group.id, group.is_there, group.is_new), (BASE + 2, true, false));
    assert_eq!((changes.ways.len(), changes.stale()), (0, vec![]));
}

#[test]
fn a_group_keeps_its_number_while_members_come_and_go() {
    for (hosts, made, stale) in
        [(&[1, 2, 3][..], 1, vec![]), (&[2], 0, vec![BASE]), (&[3], 1, vec![BASE, BASE + 1])]
    {
        let mut changes = changes(pair(), &[]);
        let group = changes.group(Some(BASE + 2), &members(hosts)).unwrap();
        assert_eq!((group.id, group.is_there, group.is_new), (BASE + 2, true, true), "{hosts:?}");
        assert_eq!((changes.ways.len(), changes.stale()), (made, stale), "{hosts:?}");
    }
}

#[test]
fn a_group_of_another_form_or_another_destination_is_not_taken() {
    let mut plain = pair();
    plain[2] = of_group(BASE + 2, 118, Form::Plain, &[entry(BASE, Weight::Full)]);
    let mut first = changes(plain, &[]);
    let group = first.group(Some(BASE + 2), &members(&[1, 2])).unwrap();
    assert_eq!((group.id, group.is_there), (BASE + 3, false));
    assert_eq!(first.stale(), [BASE + 2]);

    let mut second = changes(pair(), &[BASE + 2]);
    let group = second.group(Some(BASE + 2), &members(&[1])).unwrap();
    assert_eq!((group.id, group.is_there), (BASE + 3, false));
    assert_eq!(second.stale(), Vec::<u32>::new());
}

#[test]
fn what_is_not_flocks_is_left_alone_and_its_numbers_are_not_used() {
    let foreign = vec![
        of_way(BASE, 4, 1),
        of_way(7, 118, 1),
        of_group(BASE + 1, 4, Form::Plain, &[entry(BASE + 2, Weight::Full)]),
        of_way(BASE + 2, 118, 1),
        of_group(8, 118, Form::RESILIENT, &[entry(7, Weight::Full)]),
    ];
    assert_eq!(
        changes(foreign.clone(), &[]).stale(),
        Vec::<u32>::new(),
        "a way lent to a stranger stays too"
    );
    let mut changes = changes(foreign, &[]);
    for current in [None, Some(8), Some(BASE + 1)] {
        let group = changes.group(current, &members(&[1, 2])).unwrap();
        assert!(!group.is_there && group.id > BASE + 2, "{group:?}");
    }
    assert_eq!(changes.ways, [(BASE + 3, way(2))]);
}

#[test]
fn one_way_serves_every_group_and_a_second_of_the_same_is_stale() {
    let mut twice = pair();
    twice.push(of_way(BASE + 9, 118, 1));
    twice.push(Object { id: BASE + 10, protocol: 118, kind: Kind::Other });
    let mut changes = changes(twice, &[]);
    let groups: Vec<Group> =
        [Some(BASE + 2), None].into_iter().map(|it| changes.group(it, &members(&[1, 3])).unwrap()).collect();
    assert_eq!(groups[0].entries, groups[1].entries);
    assert_ne!(groups[0].id, groups[1].id);
    assert_eq!(changes.ways.len(), 1);
    assert_eq!(changes.stale(), [BASE + 1, BASE + 9, BASE + 10]);
}

#[test]
fn when_the_numbers_run_out_there_is_no_group() {
    let all = IDS.map(|id| of_way(id, 4, 1)).collect();
    assert_eq!(changes(all, &[]).group(None, &members(&[1])), None);
}

/// A group as it would be read back.
fn written(group: &Group, ways: &[(u32, Way)]) -> Vec<Object> {
    let ways = ways.iter().map(|(id, way)| Object { id: *id, protocol: 118, kind: Kind::Way(*way) });
    ways.chain([of_group(group.id, 118, Form::RESILIENT, &group.entries)]).collect()
}

#[test]
fn who_is_alone_in_a_group_of_ipv4_has_a_twin_for_as_long_as_it_stays() {
    let member = |host| (way4(host), Weight::Full);
    let mut objects = Vec::new();
    let mut current = None;
    let steps: [(&[u8], &[u16]); 6] = [
        (&[2], &[255, 1]),
        (&[2, 3], &[255, 1, 255]),
        (&[1, 2, 3], &[255, 255, 1, 255]),
        (&[1, 3], &[255, 255]),
        (&[3], &[255, 1]),
        (&[3, 4], &[255, 1, 255]),
    ];
    for (hosts, weights) in steps {
        let mut changes = changes(std::mem::take(&mut objects), &[]);
        let members: Vec<_> = hosts.iter().map(|host| member(*host)).collect();
        let group = changes.group(current, &members).unwrap();
        assert_eq!(group.entries.iter().map(|entry| entry.weight).collect::<Vec<_>>(), weights, "{hosts:?}");
        assert!(current.is_none_or(|id| id == group.id));
        current = Some(group.id);
        let stale = changes.stale();
        let known = changes.numbers.iter().flat_map(|(way, ids)| ids.iter().map(|id| (*id, *way)));
        let left: Vec<(u32, Way)> = known.filter(|(id, _)| !stale.contains(id)).collect();
        assert_eq!(left.len(), weights.len(), "{hosts:?}");
        objects = written(&group, &left);
        let read = Table::new(objects.clone()).members(group.id, Form::RESILIENT, ifname).unwrap();
        assert_eq!(read.iter().len(), hosts.len());
        assert!(read.iter().all(|member| member.weight == Weight::Full));
    }
}

#[test]
fn a_twin_that_is_missing_is_added_to_a_group_that_is_otherwise_right() {
    let alone = |way: Way, form| {
        let way = Object { id: BASE, protocol: 118, kind: Kind::Way(way) };
        vec![way, of_group(BASE + 2, 118, form, &[entry(BASE, Weight::Full)])]
    };
    let mut lacking = changes(alone(way4(1), Form::RESILIENT), &[BASE + 2]);
    let completed = lacking.completed(BASE + 2).unwrap();
    assert_eq!((completed.id, completed.is_there, completed.entries.len()), (BASE + 2, true, 2));
    assert_eq!((lacking.ways.as_slice(), lacking.stale()), ([(BASE + 1, way4(1))].as_slice(), vec![]));

    let mut whole = changes(written(&completed, &[(BASE, way4(1)), (BASE + 1, way4(1))]), &[BASE + 2]);
    assert_eq!((whole.completed(BASE + 2), whole.stale()), (None, vec![]));
    let mut of_ipv6 = changes(alone(way(1), Form::RESILIENT), &[BASE + 2]);
    assert_eq!((of_ipv6.completed(BASE + 2), of_ipv6.stale()), (None, vec![]));
    let mut plain = Changes::new(Table::new(alone(way4(1), Form::Plain)), Form::Plain, [BASE + 2]);
    assert_eq!((plain.completed(BASE + 2), plain.stale()), (None, vec![]));
}
