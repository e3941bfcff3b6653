//! A tunnel through a SOCKS5 proxy (RFC 1928), with user and password where it wants them (RFC 1929).
//!
//! Promises: reads not a byte beyond the proxy's answer; names travel as names, so that the proxy resolves them.
//! Must never: offer credentials that were not given.

use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::proxy::ProxyError;

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const NO_CREDENTIALS: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;

/// Asks for a tunnel to `host:port` on a fresh connection to the proxy. `credentials` are `user:password`.
pub(super) async fn connect<S>(
    stream: &mut S,
    host: &str,
    port: u16,
    credentials: Option<&str>,
) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let io = |error: std::io::Error| ProxyError(error.to_string());
    let hello: &[u8] = if credentials.is_some() {
        &[VERSION, 2, NO_CREDENTIALS, USER_AND_PASSWORD]
    } else {
        &[VERSION, 1, NO_CREDENTIALS]
    };
    stream.write_all(hello).await.map_err(io)?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await.map_err(io)?;
    match (answer, credentials) {
        ([VERSION, NO_CREDENTIALS], _) => {}
        ([VERSION, USER_AND_PASSWORD], Some(credentials)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let mut request = vec![1];
            short(&mut request, user, "user name")?;
            short(&mut request, password, "password")?;
            stream.write_all(&request).await.map_err(io)?;
            stream.read_exact(&mut answer).await.map_err(io)?;
            let [_, status] = answer;
            if status != 0 {
                return Err(ProxyError("refuses the credentials".to_owned()));
            }
        }
        ([VERSION, _], _) => return Err(ProxyError("wants credentials".to_owned())),
        _ => return Err(ProxyError("did not answer with SOCKS5".to_owned())),
    }
    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(ADDRESS_V4);
            request.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(ADDRESS_V6);
            request.extend_from_slice(&address.octets());
        }
        Err(_) => {
            request.push(ADDRESS_NAME);
            short(&mut request, host, "host name")?;
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await.map_err(io)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(io)?;
    let [version, status, _, kind] = head;
    if version != VERSION {
        return Err(ProxyError("did not answer with SOCKS5".to_owned()));
    }
    if status != 0 {
        let reason = match status {
            2 => "does not allow the connection",
            3 => "cannot reach the network",
            4 => "cannot reach the host",
            5 => "was refused by the host",
            _ => "cannot connect",
        };
        return Err(ProxyError(reason.to_owned()));
    }
    // Where it connected from; nobody asked, but it is sent.
    let len = match kind {
        ADDRESS_V4 => 4,
        ADDRESS_V6 => 16,
        ADDRESS_NAME => usize::from(stream.read_u8().await.map_err(io)?),
        _ => return Err(ProxyError("did not answer with SOCKS5".to_owned())),
    };
    let mut rest = vec![0; len + 2];
    stream.read_exact(&mut rest).await.map_err(io)?;
    Ok(())
}

/// Appends a text with its length in one byte.
fn short(request: &mut Vec<u8>, text: &str, what: &str) -> Result<(), ProxyError> {
    let len = u8::try_from(text.len())
        .map_err(|_| ProxyError(format!("{what} is longer than 255 bytes")))?;
    request.push(len);
    request.extend_from_slice(text.as_bytes());
    Ok(())
}
