//! The registry of a running process: read by every decision, replaced as records arrive.

use std::sync::{Arc, PoisonError, RwLock};

use p2_core::record::RegistryRecord;
use p2_core::registry::Registry;

/// A shared registry that can be updated at run time. Clones are the same registry.
///
/// A decision takes a snapshot and works on that, so it sees one state from beginning to end. The lock is
/// held only to copy or exchange a pointer, except by [`RegistryHandle::apply`], which copies the
/// definitions first (updates are rare); it is never held across an await.
#[derive(Clone, Debug, Default)]
pub struct RegistryHandle {
    current: Arc<RwLock<Arc<Registry>>>,
}

impl RegistryHandle {
    /// A handle on these definitions.
    pub fn new(registry: Registry) -> RegistryHandle {
        RegistryHandle { current: Arc::new(RwLock::new(Arc::new(registry))) }
    }

    /// The registry as it is now. Later updates do not change it.
    pub fn snapshot(&self) -> Arc<Registry> {
        // A writer that panicked has not exchanged the pointer: the registry behind it is whole.
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the whole registry.
    pub fn replace(&self, registry: Registry) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }

    /// Takes one record of the topic.
    ///
    /// # Errors
    /// A sentence where the body is not a definition of its kind; then nothing changed.
    pub fn apply(&self, record: &RegistryRecord) -> Result<(), String> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Registry::clone(&current);
        next.apply(record)?;
        *current = Arc::new(next);
        Ok(())
    }
}
