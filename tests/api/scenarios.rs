//! Every scenario of `tests/scenarios` over the simulated kernel, and the runner itself: whatever is expected wrongly
//! is found.

use crate::scenario::{SimMachine, chosen, conclude, play};

#[tokio::test]
async fn every_scenario_ends_as_written() {
    let mut rows = Vec::new();
    for scenario in chosen() {
        let (outcome, _) = play(&mut SimMachine::new(), &scenario).await;
        rows.push((scenario, vec![outcome]));
    }
    conclude(&["simulated"], &rows);
}
