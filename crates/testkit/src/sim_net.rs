//! The network of a simulated cluster: turmoil's, behind the same seam as the real one.

use std::io;

use async_trait::async_trait;
use highwater_seams::{BoxedIo, Listener, Net};

/// Connects simulated hosts by their names; usable inside of a turmoil simulation only.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimNet;

struct SimListener(turmoil::net::TcpListener, u16);

#[async_trait]
impl Listener for SimListener {
    fn port(&self) -> u16 {
        self.1
    }
    async fn accept(&mut self) -> io::Result<BoxedIo> {
        let (stream, _) = self.0.accept().await?;
        Ok(BoxedIo::new(stream))
    }
}

#[async_trait]
impl Net for SimNet {
    /// Binds every address of the simulated host, whatever `host` says: a host has one, and it is given at run time.
    async fn bind(&self, _host: &str, port: u16) -> io::Result<Box<dyn Listener>> {
        let listener = turmoil::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await?;
        let port = listener.local_addr()?.port();
        Ok(Box::new(SimListener(listener, port)))
    }
    async fn connect(&self, host: &str, port: u16) -> io::Result<BoxedIo> {
        Ok(BoxedIo::new(turmoil::net::TcpStream::connect((host, port)).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn simulated_hosts_talk_through_the_seam() {
        let mut sim = turmoil::Builder::new().build();
        sim.host("server", || async {
            let mut listener = SimNet.bind("server", 9092).await?;
            let mut io = listener.accept().await?;
            let mut byte = [0; 1];
            io.read_exact(&mut byte).await?;
            io.write_all(&[byte[0] + 1]).await?;
            Ok(())
        });
        sim.client("client", async {
            let mut io = SimNet.connect("server", 9092).await?;
            io.write_all(&[41]).await?;
            let mut byte = [0; 1];
            io.read_exact(&mut byte).await?;
            assert_eq!(byte, [42]);
            Ok(())
        });
        sim.run().unwrap();
    }
}
