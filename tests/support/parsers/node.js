// Node's http server: tells in X-Seen what it made of each request. The path is what its URL class makes of the target.
const http = require('http');
const crypto = require('crypto');

function pathname(request) {
  try {
    return new URL(request.url, 'http://' + request.headers.host).pathname;
  } catch {
    return null;
  }
}

const server = http.createServer({ maxHeaderSize: 1 << 17 }, (request, response) => {
  const digest = crypto.createHash('sha256');
  let length = 0;
  request.on('data', (data) => { digest.update(data); length += data.length; });
  request.on('end', () => {
    response.setHeader('X-Seen', JSON.stringify({
      method: request.method, host: request.headers.host, target: request.url, path: pathname(request),
      length, digest: digest.digest('hex'),
    }));
    response.setHeader('Content-Length', 0);
    response.end();
  });
});
// Who has sent everything may close his side and still gets his answers.
server.httpAllowHalfOpen = true;
server.listen(Number(process.argv[2]), '127.0.0.1');
