//! Known traces, one test each: histories that have lost data elsewhere, step by step.

use super::*;

/// Runs a process until it has opened a term and acknowledged its first segment.
fn settled(world: &mut World, machine: usize) -> Process {
    for _ in 0..200 {
        // It ends where the bucket was silent; then it starts again.
        world.begin(machine);
        let at = |world: &World| world.processes.iter().position(|process| process.machine == machine);
        let index = at(world).expect("just started");
        world.advance(index);
        let Some(index) = at(world) else { continue };
        if let Doing::Running(term) = &world.processes[index].doing
            && term.durable().is_some()
        {
            return world.processes.remove(index);
        }
    }
    world.fail("a process never settled")
}

/// Runs one process until it says something of interest.
fn until_event(world: &mut World, process: &mut Process, entry: bool) -> Event {
    let now_ms = world.now_ms + process.skew_ms;
    let Doing::Running(term) = &mut process.doing else { panic!("not running") };
    if entry {
        world.commit(process.machine, Some(term), true, now_ms);
    }
    for _ in 0..200 {
        if let Some(event) = world.exchange(term) {
            if let Event::Durable { position, commit, .. } = event {
                world.acknowledge(process.machine, position, commit);
            }
            return event;
        }
    }
    world.fail("nothing happened")
}

#[test]
fn trace_the_old_pod_ships_after_the_new_one_restored() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut old = settled(&mut world, 0);
        let mut new = settled(&mut world, 1);
        let event = until_event(&mut world, &mut old, true);
        assert!(matches!(event, Event::Fenced { .. }), "seed {seed}: the old pod was answered {event:?}");
        assert!(matches!(until_event(&mut world, &mut new, true), Event::Durable { .. }));
        world.invariant_nothing_acknowledged_is_lost();
    }
}

#[test]
fn trace_a_fenced_volume_with_a_longer_fork_comes_back() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut old = settled(&mut world, 0);
        let mut new = settled(&mut world, 1);
        for _ in 0..20 {
            let now_ms = world.now_ms + old.skew_ms;
            let Doing::Running(term) = &mut old.doing else { unreachable!() };
            world.commit(0, Some(term), true, now_ms);
        }
        assert!(matches!(until_event(&mut world, &mut new, true), Event::Durable { .. }));
        assert!(world.volumes[0].meta.commit > world.volumes[1].meta.commit, "the fork is not longer");
        drop(old);
        drop(new);
        let back = settled(&mut world, 0);
        world.invariant_nothing_acknowledged_is_lost();
        assert_eq!(back.machine, 0);
    }
}

#[test]
fn trace_two_puts_across_a_change_of_owner() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut old = settled(&mut world, 0);
        // Its PUT is on the wire, unanswered, while another opens the next number, or just does not.
        let now_ms = world.now_ms + old.skew_ms;
        let Doing::Running(term) = &mut old.doing else { unreachable!() };
        world.commit(0, Some(term), true, now_ms);
        let Some(Request::Create { key, bytes }) = term.request(world.now_ms, &mut world.rng) else { unreachable!() };
        term.answer(Answer::Unknown, world.now_ms);
        let first = seed % 2 == 0;
        if first {
            world.bucket.create(&key, &bytes, world.now_ms);
        }
        let mut new = settled(&mut world, 1);
        if !first {
            assert!(!world.bucket.create(&key, &bytes, world.now_ms), "a late PUT took a number that was gone");
        }
        // Where its object was first, it is part of the history: telling so is no lie, and the next is refused.
        let mut event = until_event(&mut world, &mut old, false);
        assert_eq!(matches!(event, Event::Durable { .. }), first, "seed {seed}: {event:?}");
        if first {
            event = until_event(&mut world, &mut old, true);
        }
        assert!(matches!(event, Event::Fenced { .. }), "seed {seed}: {event:?}");
        assert!(matches!(until_event(&mut world, &mut new, true), Event::Durable { .. }));
        world.invariant_nothing_acknowledged_is_lost();
    }
}

/// Retention has deleted the object of the zombie's next number.
#[test]
fn trace_an_idle_zombie_wakes_after_a_collection() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut zombie = settled(&mut world, 0);
        let mut successor = settled(&mut world, 1);
        for _ in 0..5 {
            until_event(&mut world, &mut successor, true);
        }
        let volume = world.volumes[1].clone();
        let Doing::Running(term) = &successor.doing else { unreachable!() };
        let (position, commit) = term.durable().unwrap();
        let frame = zstd::bulk::compress(&volume.image, 1).unwrap();
        let len = volume.image.len() as u64;
        let sealed = term.sealer().snapshot(frame, len, position, commit, world.now_ms, &mut world.rng);
        let key = layout::snapshot(position.seq, position.hash);
        world.bucket.create(&key, &sealed.bytes, world.now_ms);
        for _ in 0..3 {
            world.now_ms += 2 * RETENTION_GRACE_MS;
            world.collect();
        }
        let Doing::Running(term) = &zombie.doing else { unreachable!() };
        let next = term.durable().unwrap().0.seq.next();
        assert!(world.bucket.get(&layout::sequence(next)).is_none(), "the trace needs the number to be free");
        let event = until_event(&mut world, &mut zombie, true);
        assert!(matches!(event, Event::Fenced { .. }), "seed {seed}: a zombie was answered {event:?}");
        assert!(matches!(until_event(&mut world, &mut successor, true), Event::Durable { .. }));
        world.invariant_nothing_acknowledged_is_lost();
    }
}

#[test]
fn trace_a_new_owner_that_looked_before_the_base_arrived() {
    // The old owner opened its term; the new one looks, and restores the state before; then the base arrives.
    let mut world = World::new(1);
    let mut first = settled(&mut world, 0);
    until_event(&mut world, &mut first, true);
    drop(first);
    world.begin(1);
    while !matches!(world.processes[0].doing, Doing::Running(_)) {
        world.advance(0);
    }
    let mut old = world.processes.remove(0);
    // A newcomer that looked now, at a bare opening, restores what was before it.
    let head = world.bucket.head().unwrap();
    assert!(head.is_opening);
    assert!(world.fetch(2, head, world.now_ms).is_some());
    let now_ms = world.now_ms + old.skew_ms;
    let Doing::Running(term) = &mut old.doing else { unreachable!() };
    world.commit(1, Some(term), true, now_ms);
    loop {
        match world.exchange(term) {
            Some(Event::Based { .. }) => break,
            Some(other) => panic!("{other:?} before the base"),
            None => {}
        }
    }
    assert!(term.durable().is_none(), "acknowledged by a base that nobody has to look at");
    let doing = world.open(2, Some(head), world.now_ms);
    let Doing::Opening(mut newcomer) = doing else { unreachable!() };
    while world.exchange(&mut newcomer).is_none() {}
    let event = until_event(&mut world, &mut old, false);
    assert!(matches!(event, Event::Fenced { .. }), "the old owner was answered {event:?}");
    world.invariant_nothing_acknowledged_is_lost();
}
