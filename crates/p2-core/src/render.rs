//! Rendering a stack for a model.
