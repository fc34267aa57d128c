//! `chaos`: the fault campaign. A real broker, a real CQL server and several processes of each processor are
//! killed, suspended, cut off and started again while people at random talk to the system; then everything heals
//! and comes to rest, and what the topics, the store and the outside world say is compared with what was promised.
//!
//! What happens when ([`plan`]) and what is wrong afterwards ([`check`]) are values; [`run`] is the thin shell
//! around them.

mod check;
mod evidence;
mod history;
mod judging;
mod money;
mod payers;
mod people;
mod plan;
mod processes;
mod proxy;
mod report;
mod run;
mod services;
mod shift;
mod watch;
mod writer;

pub(crate) use history::History;
pub(crate) use report::text;
pub(crate) use run::campaign;
