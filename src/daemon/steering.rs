//! The daemon's side of the helper: hands it what the tables should be, and looks whether they still are.

use super::Readiness;
use crate::steer::{self, AsyncHelper, HelperError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How often the tables are looked at.
const LOOK: Duration = Duration::from_secs(2);

pub(super) struct Steering {
    helper: Mutex<AsyncHelper>,
    applied: Mutex<Option<steer::Settings>>,
}

impl Steering {
    pub(super) fn new(helper: AsyncHelper, applied: Option<steer::Settings>) -> Self {
        Self { helper: Mutex::new(helper), applied: Mutex::new(applied) }
    }

    pub(super) async fn apply(&self, settings: steer::Settings) -> Result<(), HelperError> {
        let mut applied = self.applied.lock().await;
        if applied.as_ref() == Some(&settings) {
            return Ok(());
        }
        self.helper.lock().await.apply(&settings).await?;
        *applied = Some(settings);
        Ok(())
    }

    /// Keeps readiness true to the tables. Ends when the helper is gone, which nobody without rights can start again.
    pub(super) async fn watch(self: Arc<Self>, readiness: Arc<Readiness>) {
        let mut stood = true;
        loop {
            tokio::time::sleep(LOOK).await;
            let (stand, problem) = match self.helper.lock().await.verify().await {
                Ok(report) => (report.intact, report.problem),
                Err(error @ HelperError::Gone) => {
                    readiness.tables_stand(false);
                    return tracing::error!("{error}");
                }
                Err(error) => (false, Some(error.to_string())),
            };
            readiness.tables_stand(stand);
            if stood && !stand {
                let problem = problem.unwrap_or_else(|| "somebody changed them".to_owned());
                tracing::error!("the nftables tables are not as they should be: {problem}");
            }
            stood = stand;
        }
    }
}
