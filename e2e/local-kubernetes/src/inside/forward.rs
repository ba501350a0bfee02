//! From the developer's 127.0.0.1 into the cluster's network.
//!
//! A socket belongs to the network in which it was made. The listeners were made on the machine and inherited; the
//! connections that answer them are made here, inside. No process is left outside, and nothing else gets in or out.

use std::io::copy;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread::spawn;

use anyhow::{Context, Result};
use listenfd::ListenFd;

use crate::layout::CONTROL_PLANE;

/// Forwards the inherited listeners to the control plane's `ports`, in their order.
pub(super) fn start(ports: &[u16]) -> Result<()> {
    let mut inherited = ListenFd::from_env();
    for (index, port) in ports.iter().enumerate() {
        let listener = inherited
            .take_tcp_listener(index)?
            .with_context(|| format!("no listener for port {port} was inherited"))?;
        let port = *port;
        spawn(move || accept(&listener, CONTROL_PLANE, port));
    }
    Ok(())
}

fn accept(listener: &TcpListener, address: Ipv4Addr, port: u16) {
    for outside in listener.incoming().flatten() {
        spawn(move || {
            // Refused inside (not started yet) is refused outside: the client sees its connection closed.
            if let Ok(inside) = TcpStream::connect((address, port)) {
                let _ = join(&outside, &inside);
            }
        });
    }
}

fn join(outside: &TcpStream, inside: &TcpStream) -> std::io::Result<()> {
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    let (mut from, mut to) = (outside.try_clone()?, inside.try_clone()?);
    let inwards = spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (inside, outside);
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = inwards.join();
    Ok(())
}
