import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.concurrent.Executors;

/** The JDK's own HttpServer: tells in X-Seen what it made of each request. */
public class JdkServer {
    static String quoted(String text) {
        return text == null ? "null" : '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    static void tell(HttpExchange exchange) throws IOException {
        byte[] body = exchange.getRequestBody().readAllBytes();
        String digest;
        try {
            digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
        String host = String.join(", ", exchange.getRequestHeaders().getOrDefault("Host", java.util.List.of()));
        exchange.getResponseHeaders().set("X-Seen", "{\"method\":" + quoted(exchange.getRequestMethod())
            + ",\"host\":" + quoted(host) + ",\"target\":" + quoted(exchange.getRequestURI().toString())
            + ",\"path\":" + quoted(exchange.getRequestURI().getRawPath())
            + ",\"length\":" + body.length + ",\"digest\":" + quoted(digest) + "}");
        exchange.sendResponseHeaders(200, -1);
        exchange.close();
    }

    public static void main(String[] args) throws IOException {
        InetSocketAddress at = new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(args[0]));
        HttpServer server = HttpServer.create(at, 128);
        server.createContext("/", JdkServer::tell);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
