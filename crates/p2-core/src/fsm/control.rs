//! Cancel, pause, resume.

use serde_json::json;

use super::builder::Step;
use super::{applied, budget, deadline, turn};
use crate::conversation::OpenWait;
use crate::ids::{AgentId, BranchId};
use crate::record::{Change, ControlCommand, ControlOperation, Outcome, PauseSet};
use crate::state::{State, StopReason, WaitKind, Waiting};

pub(super) fn decide(step: &mut Step<'_>, command: &ControlCommand) -> Outcome {
    let (root, branch) = (step.conv.root.clone(), step.conv.current(&step.conv.root));
    let (name, changed) = match command.operation {
        ControlOperation::Cancel => ("cancelled", cancel(step, &command.reason)),
        ControlOperation::Pause => ("paused", set_pause(step, true)),
        ControlOperation::Resume => ("resumed", set_pause(step, false)),
    };
    if changed {
        step.event(&root, &branch, name, json!({"reason": command.reason}));
    }
    let message = if changed { "" } else { "there was nothing to do" };
    Outcome { message: message.into(), ..applied() }
}

fn cancel(step: &mut Step<'_>, reason: &str) -> bool {
    let why = if reason.trim().is_empty() { "somebody asked for it" } else { reason.trim() };
    let open: Vec<_> = step.conv.waits.keys().copied().collect();
    for wait in &open {
        // Settling one may have settled another.
        if let Some(wait) = step.conv.waits.get(wait).cloned() {
            deadline::give_up(step, &wait, why);
        }
    }
    let current: Vec<(AgentId, BranchId)> =
        step.conv.stacks.iter().map(|(agent, stack)| (agent.clone(), stack.current.clone())).collect();
    let mut ended = false;
    for (agent, branch) in current {
        if turn::is_open(&step.conv, &agent, &branch) {
            turn::finish(step, &agent, &branch, StopReason::Cancelled);
            ended = true;
        }
    }
    ended || !open.is_empty()
}

/// Gives up everything that a branch waits for, and what its callees wait for.
pub(super) fn cancel_branch(step: &mut Step<'_>, agent: &AgentId, branch: &BranchId, why: &str) {
    let waits: Vec<_> = step.conv.waits_on(agent, branch).into_iter().cloned().collect();
    for wait in waits {
        if wait.waiting.kind == WaitKind::Agent
            && let Some((callee, on)) = super::delegation::callee(&step.conv, &wait.waiting.id)
        {
            cancel_branch(step, &callee, &on, why);
        }
        deadline::give_up(step, &wait, why);
    }
    turn::finish(step, agent, branch, StopReason::Cancelled);
}

/// A call that is cut short may have cost something, and a pause may be longer than any reservation: it is paid for now.
fn paid_so_far(step: &mut Step<'_>, open: &OpenWait) {
    if open.waiting.budget.is_some() {
        budget::end(step, open, budget::unrecorded(open));
        let waiting = Waiting { budget: None, ..open.waiting.clone() };
        step.append(&open.agent, &open.branch, State::Waiting(waiting));
    }
}

fn set_pause(step: &mut Step<'_>, paused: bool) -> bool {
    if step.conv.paused == paused {
        return false;
    }
    let (root, current) = (step.conv.root.clone(), step.conv.current(&step.conv.root));
    step.change(&root, &current, Change::PauseSet(PauseSet { paused }));
    if paused {
        let models: Vec<_> = step.conv.waits.values().filter(|w| w.waiting.kind == WaitKind::Llm).collect();
        let models: Vec<OpenWait> = models.into_iter().cloned().collect();
        for open in &models {
            step.cut_short(open.waiting.id);
            paid_so_far(step, open);
        }
        return true;
    }
    let mut live: Vec<(AgentId, BranchId)> = Vec::new();
    for (agent, stack) in &step.conv.stacks {
        live.extend(stack.branches.keys().map(|branch| (agent.clone(), branch.clone())));
    }
    for (agent, branch) in live {
        if !step.conv.is_parked(&agent, &branch) {
            turn::resume_here(step, &agent, &branch);
        }
    }
    true
}
