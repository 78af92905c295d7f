import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.util.concurrent.CompletableFuture;
import okhttp3.HttpUrl;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.RequestBody;
import okhttp3.Response;
import okhttp3.sse.EventSource;
import okhttp3.sse.EventSourceListener;
import okhttp3.sse.EventSources;

/** An answer through OkHttp's EventSource. It needs okhttp, okhttp-sse and gson on the class path. */
public class OkHttpChatSse {
    private static final HttpUrl SERVER = HttpUrl.get(System.getenv("LLMAPI_KIT_URL"));
    private static final OkHttpClient CLIENT = new OkHttpClient();

    public static void main(String[] args) throws Exception {
        String prompt = args.length > 0 ? args[0] : "What is the capital of Italy?";
        try {
            listen(prompt, token(System.getenv("LLMAPI_KIT_API_KEY"))).get();
            System.out.println();
        } finally {
            CLIENT.dispatcher().executorService().shutdown();
            CLIENT.connectionPool().evictAll();
        }
    }

    /** A short-lived token, for the key. */
    static String token(String key) throws Exception {
        Request request = new Request.Builder()
                .url(SERVER.newBuilder().addPathSegments("chat-sse/token").build())
                .header("Authorization", "Bearer " + key)
                .post(RequestBody.create(null, new byte[0]))
                .build();
        try (Response response = CLIENT.newCall(request).execute()) {
            if (!response.isSuccessful()) throw new IllegalStateException("There is no token: HTTP " + response.code());
            return JsonParser.parseString(response.body().string()).getAsJsonObject().get("token").getAsString();
        }
    }

    /** Prints the pieces of an answer as they come; done with the last one. */
    static CompletableFuture<Void> listen(String prompt, String token) {
        HttpUrl url = SERVER.newBuilder()
                .addPathSegment("chat-sse")
                .addQueryParameter("prompt", prompt)
                .addQueryParameter("token", token)
                .build();
        CompletableFuture<Void> answer = new CompletableFuture<>();
        EventSourceListener listener = new EventSourceListener() {
            @Override
            public void onEvent(EventSource source, String id, String type, String data) {
                JsonObject event = JsonParser.parseString(data).getAsJsonObject();
                if ("end".equals(type)) {
                    answer.complete(null);
                } else if ("failed".equals(type)) {
                    String message = event.getAsJsonObject("error").get("message").getAsString();
                    answer.completeExceptionally(new IllegalStateException(message));
                } else {
                    System.out.print(event.get("text").getAsString());
                    System.out.flush();
                }
            }

            @Override
            public void onClosed(EventSource source) {
                answer.completeExceptionally(new IllegalStateException("The stream broke off."));
            }

            @Override
            public void onFailure(EventSource source, Throwable error, Response response) {
                String status = response == null ? String.valueOf(error) : "HTTP " + response.code();
                answer.completeExceptionally(new IllegalStateException("There is no answer: " + status));
            }
        };
        EventSources.createFactory(CLIENT).newEventSource(new Request.Builder().url(url).build(), listener);
        return answer;
    }
}
