//! How many retries a store is sent: few in proportion to its calls, so that they
//! never multiply the load on a store that is failing.

/// What one call earns, and what one retry costs.
const EARNED: u32 = 1;
const COST: u32 = 5;
/// Retries that can be saved up.
const SAVED: u32 = 10 * COST;

/// One retry for five calls, and up to ten saved up.
#[derive(Debug)]
pub(super) struct Budget {
    balance: u32,
}

// === impl Budget ===

impl Default for Budget {
    fn default() -> Self {
        Self { balance: SAVED }
    }
}

impl Budget {
    /// A first try was made.
    pub(super) fn deposit(&mut self) {
        self.balance = (self.balance + EARNED).min(SAVED);
    }

    /// Takes one retry out, if there is one left.
    pub(super) fn withdraw(&mut self) -> bool {
        let left = self.balance.checked_sub(COST);
        self.balance = left.unwrap_or(self.balance);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_calls() {
        let mut budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 10);
        let mut granted = 0;
        for _ in 0..100 {
            budget.deposit();
            granted += usize::from(budget.withdraw());
        }
        assert_eq!(granted, 20);
    }
}
