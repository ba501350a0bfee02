//! The smallest program that replicates: opens the database of a `litestream.yml`, writes a line whenever one
//! comes on standard input, and says where it is in the bucket.
//!
//! ```sh
//! echo hello | cargo run --example replicate -- litestream.yml
//! ```

use std::time::Duration;

use keyfleet_litestream::config::Config;
use keyfleet_litestream::{Ack, Database};
use redb::TableDefinition;

const LINES: TableDefinition<'_, u64, &str> = TableDefinition::new("lines");

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: replicate CONFIG")?;
    let config = Config::read(path.as_ref())?;
    let db = config.dbs.into_iter().next().ok_or("no database")?;
    let database = Database::open(db.options).await?;
    println!("started: {}", serde_json::to_string(database.started())?);

    for line in std::io::stdin().lines() {
        let line = line?;
        let receipt = database
            .write(Ack::Remote { timeout: Duration::from_secs(30) }, move |txn| -> Result<u64, redb::Error> {
                use redb::ReadableTable as _;
                let mut lines = txn.open_table(LINES)?;
                let next = lines.last()?.map_or(0, |(number, _)| number.value() + 1);
                lines.insert(next, line.as_str())?;
                Ok(next)
            })
            .await?;
        println!("line {} is in the bucket at {}", receipt.value, receipt.position.ok_or("asked for")?);
    }
    // The last act: everything is shipped, and the position is known.
    println!("ended at {:?}", database.close(Duration::from_secs(30)).await?);
    Ok(())
}
