use keyfleet_simulation::{Fleet, Settings};
#[test]
fn tmp() {
    let mut fleet = Fleet::new(5, Settings::ROUGH, 5, 3, 4);
    let mut a = None;
    for _ in 0..5 { a = Some(fleet.next_active(a, 300)); }
    for l in fleet.lines() { println!("{}", &l[..l.len().min(200)]); }
    for (n,e) in &fleet.api.epochs { println!("{n} {:?} {} {:?}", e.record.phase, e.reason, e.culprits.len()); }
    for n in fleet.nodes.values() { println!("{} crashes {} notices {:?}", n.index, n.crashes, n.notices); }
}
