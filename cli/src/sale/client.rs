//! One real WebSocket: opened with a ticket, read frame by frame, closed politely or cut without a word.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::frame::Frame;

/// How long the handshake may take, a cold function's start included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a polite close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket that did not open: the gateway's status, or what happened instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the gateway answered {0}")]
    Refused(u16),
    #[error("{0}")]
    Failed(String),
    #[error("the handshake took too long")]
    TimedOut,
}

/// An open socket.
pub(crate) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub(crate) async fn open(url: &str, ticket: &str) -> Result<Self, ConnectError> {
        // Small buffers: the default of 128 KB is a lot for 2,000 sockets that carry short texts.
        let config = WebSocketConfig::default()
            .read_buffer_size(4 * 1024)
            .write_buffer_size(0);
        let separator = if url.contains('?') { '&' } else { '?' };
        let address = format!("{url}{separator}ticket={ticket}");
        match timeout(
            HANDSHAKE_TIMEOUT,
            connect_async_with_config(address, Some(config), true),
        )
        .await
        {
            Ok(Ok((stream, _))) => Ok(Self { stream }),
            Ok(Err(Error::Http(response))) => {
                Err(ConnectError::Refused(response.status().as_u16()))
            }
            Ok(Err(error)) => Err(ConnectError::Failed(error.to_string())),
            Err(_) => Err(ConnectError::TimedOut),
        }
    }

    /// Sends a text. An error shows in [`Self::next`] as the socket's end, so none is returned here.
    pub(crate) async fn send(&mut self, text: String) {
        drop(self.stream.send(Message::text(text)).await);
    }

    /// The next frame; `None` once the socket is closed or broken. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.stream.next().await? {
                Ok(Message::Text(text)) => return Some(Frame::parse(&text)),
                Ok(Message::Binary(bytes)) => {
                    return Some(Frame::parse(&String::from_utf8_lossy(&bytes)));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Drops the connection without a close frame, like a phone that goes into a tunnel: the peer sees a reset.
    pub(crate) fn cut(self) {
        // Without the option the peer sees an end of stream instead: as abrupt, only later noticed.
        drop(self.stream.get_ref().get_ref().set_zero_linger());
    }

    /// Closes with a close frame and waits for the peer's.
    pub(crate) async fn close(mut self) {
        let farewell = async {
            // A peer that has gone already needs no farewell.
            drop(self.stream.close(None).await);
            while let Some(Ok(_)) = self.stream.next().await {}
        };
        // A peer that does not answer in time is left alone.
        drop(timeout(CLOSE_TIMEOUT, farewell).await);
    }
}
