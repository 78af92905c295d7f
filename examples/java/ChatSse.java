import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.Iterator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** An answer over server-sent events, with the JDK alone: java ChatSse.java "What is the capital of Italy?" */
public class ChatSse {
    private static final String SERVER = System.getenv("LLMAPI_KIT_URL");
    private static final HttpClient CLIENT = HttpClient.newHttpClient();
    private static final PrintStream OUT =
            new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);

    public static void main(String[] args) throws Exception {
        String prompt = args.length > 0 ? args[0] : "What is the capital of Italy?";
        listen(prompt, token(System.getenv("LLMAPI_KIT_API_KEY")));
        OUT.println();
    }

    /** A short-lived token, for the key. */
    static String token(String key) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(SERVER + "/chat-sse/token"))
                .header("Authorization", "Bearer " + key)
                .POST(BodyPublishers.noBody())
                .build();
        HttpResponse<String> response = CLIENT.send(request, BodyHandlers.ofString());
        if (response.statusCode() != 200) throw new IllegalStateException(text("message", response.body()));
        return text("token", response.body());
    }

    /** Prints the pieces of an answer as they come. */
    static void listen(String prompt, String token) throws Exception {
        String query = "prompt=" + URLEncoder.encode(prompt, StandardCharsets.UTF_8) + "&token=" + token;
        HttpRequest request = HttpRequest.newBuilder(URI.create(SERVER + "/chat-sse?" + query)).build();
        HttpResponse<Stream<String>> response = CLIENT.send(request, BodyHandlers.ofLines());
        try (Stream<String> lines = response.body()) {
            String event = "";
            for (Iterator<String> each = lines.iterator(); each.hasNext(); ) {
                String line = each.next();
                if (response.statusCode() != 200) throw new IllegalStateException(text("message", line));
                if (line.startsWith("event: ")) event = line.substring("event: ".length());
                if (line.isEmpty()) event = "";
                if (!line.startsWith("data: ")) continue;
                if (event.equals("end")) return;
                if (event.equals("failed")) throw new IllegalStateException(text("message", line));
                OUT.print(text("text", line));
                OUT.flush();
            }
        }
        throw new IllegalStateException("The stream broke off.");
    }

    /** A text in a flat JSON object; a program that has a JSON library uses that. */
    static String text(String name, String json) {
        Matcher found = Pattern.compile('"' + name + "\":\"((?:[^\"\\\\]|\\\\.)*)\"").matcher(json);
        if (!found.find()) throw new IllegalStateException("There is no " + name + " in " + json);
        Pattern escape = Pattern.compile("\\\\(?:u([0-9a-f]{4})|.)");
        return escape.matcher(found.group(1)).replaceAll(each -> Matcher.quoteReplacement(
                each.group(1) == null ? each.group().translateEscapes() : unicode(each.group(1))));
    }

    private static String unicode(String digits) {
        return Character.toString(Integer.parseInt(digits, 16));
    }
}
