//! Findings that a comment says are meant.

use super::Finding;

const MARK: &str = "vaultmux-mesh lint: allow ";

/// Whether a comment on the finding's line, or on those right above it, allows its rule:
/// `# vaultmux-mesh lint: allow shadow-mode, no-timeout`.
pub(super) fn here(text: &str, finding: &Finding) -> bool {
    let Ok(line) = usize::try_from(finding.line) else { return false };
    let lines: Vec<&str> = text.lines().take(line).collect();
    let Some((own, above)) = lines.split_last() else { return false };
    let comments = above.iter().rev().take_while(|line| line.trim_start().starts_with('#'));
    std::iter::once(own).chain(comments).any(|line| {
        let Some((_, comment)) = line.split_once('#') else { return false };
        let Some((_, rules)) = comment.split_once(MARK) else { return false };
        let mut rules = rules.split([',', ' ']).map(str::trim);
        rules.any(|rule| rule == finding.rule.id)
    })
}
