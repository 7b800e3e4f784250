//! The target table: what each target can do.

/// A fact about a core that a kernel selector asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature { 
    /// Packed 16-bit multiply-accumulate.
    Dsp,
    /// Vector extension.
    Mve,
}

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name.
    pub name: &'static str,
    /// One line.
    pub description: &'static str,
    /// Features.
    pub features: &'static [Feature],
}

impl Target {
    /// Whether the target has a feature.
    pub fn has(&self, feature: Feature) -> bool { self.features.contains(&feature) }
    /// By name.
    pub fn find(name: &str) -> Option<&'static Target> { TARGETS.iter().find(|t| t.name == name) }
}
/// Close names.
pub fn suggestions(_name: &str) -> Vec<&'static str> { vec![] }
/// All.
pub const TARGETS: &[Target] = &[Target { name: "generic", description: "any", features: &[] }, Target{name:"x86-64",description:"",features:&[]}];
