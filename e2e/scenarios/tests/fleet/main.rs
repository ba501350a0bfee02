//! Promises of a fleet to the platform that runs it and to the applications that call it, on a real cluster.

mod adversaries;
mod certificate;
mod lifecycle;
mod outages;
mod refusals;
mod retention;
mod retirement;
mod rounds;
mod serving;
mod storage;
mod upgrade;
mod volumes;
