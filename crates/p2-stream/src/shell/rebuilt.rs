//! A view that was rebuilt while a processor writes it.

use std::collections::BTreeMap;

use super::{CallPort, Shell, ShellError, Wire, view};
use crate::ports::Member;
use crate::processor::Processor;
use crate::runtime::{Epoch, Event};

/// What comes back beside events.
#[derive(Debug)]
pub(super) enum Note {
    /// The view was rebuilt, as seen by something that was begun after so many follows.
    Rebuilt(u64),
    /// The store is at the generation that is read now.
    Followed,
    /// The end.
    Failed(ShellError),
}

impl<P, W, C> Shell<P, W, C>
where
    P: Processor + Send + 'static,
    P::Lane: Send,
    P::Request: Send + Sync + 'static,
    P::Reply: Send + 'static,
    W: Wire,
    C: CallPort<P>,
{
    /// The view was rebuilt: everything that rests on the old generation is dropped, then the store goes over to
    /// the new one, and every partition starts over with catching up in it.
    pub(super) async fn note(
        &mut self,
        note: Note,
        member: &mut Box<dyn Member>,
        epochs: &mut BTreeMap<i32, Epoch>,
    ) -> Result<(), ShellError> {
        match note {
            Note::Failed(error) => return Err(error),
            Note::Rebuilt(follows) if follows == self.follows => {
                self.follows += 1;
                self.following = true;
                self.views.shutdown().await;
                for partition in self.owned.clone() {
                    member.pause(self.input, partition);
                    epochs.remove(&partition);
                    self.drive(Event::Revoked { partition }, member, epochs).await?;
                }
                let (views, sender, gauge) =
                    (self.setup.views.clone(), self.sender.clone(), self.gauge.clone());
                tokio::spawn(async move {
                    let followed = view::follow(&views, &gauge).await;
                    let _ = sender.send(Err(followed.map_or_else(Note::Failed, |()| Note::Followed)));
                });
            }
            Note::Rebuilt(_) => {}
            Note::Followed => {
                self.following = false;
                for partition in self.owned.clone() {
                    self.gauge.assignment("started_over");
                    if let Some(event) = self.start_over(partition, member).await? {
                        self.drive(event, member, epochs).await?;
                    }
                }
            }
        }
        Ok(())
    }
}
