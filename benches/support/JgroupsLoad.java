import java.io.BufferedReader;
import java.io.File;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.jgroups.JChannel;
import org.jgroups.Message;
import org.jgroups.ReceiverAdapter;
import org.jgroups.View;

/**
 * One of several members of a JGroups group, for comparison.
 *
 *   java -cp jgroups.jar JgroupsLoad.java ORDER MEMBERS PORT PORTS
 *
 * ORDER is "total" (SEQUENCER above the membership) or "fifo" (as the stack is). PORT is this member's on loopback, PORTS those of all,
 * separated by commas. Says "formed" once MEMBERS are there, then does what each line says and answers with a number:
 *
 *   rate SIZE SENDS MILLISECONDS    messages delivered here per second
 *   latency SIZE SENDS COUNT        median time to the sender's own delivery in microseconds; 0 at who does not send
 *
 * The packaged stack throws away what its thread pool cannot take at once, and bundles for up to 30 ms; here it has a queue and bundles
 * for up to 1 ms, which both favour it.
 */
public final class JgroupsLoad extends ReceiverAdapter {
    private final AtomicLong delivered = new AtomicLong();
    private final ArrayBlockingQueue<Long> own = new ArrayBlockingQueue<>(1);
    private volatile int members;
    private volatile boolean awaiting;
    private byte self;

    @Override
    public void viewAccepted(View view) {
        members = view.size();
    }

    @Override
    public void receive(Message message) {
        delivered.incrementAndGet();
        byte[] raw = message.getRawBuffer();
        if (awaiting && raw[message.getOffset()] == self) {
            awaiting = false;
            own.offer(System.nanoTime());
        }
    }

    private static String with(String xml, String attribute, String value) {
        return xml.replaceAll("(?<![\\w.])" + attribute.replace(".", "\\.") + "=\"[^\"]*\"", attribute + "=\"" + value + "\"");
    }

    private static File stack(boolean total, String port, String[] ports) throws Exception {
        String xml;
        try (InputStream packaged = JChannel.class.getResourceAsStream("/tcp.xml")) {
            xml = new String(packaged.readAllBytes(), StandardCharsets.UTF_8);
        }
        StringBuilder hosts = new StringBuilder();
        for (String one : ports)
            hosts.append(hosts.length() == 0 ? "" : ",").append("127.0.0.1[").append(one).append(']');
        xml = with(xml, "bind_port", port);
        xml = xml.replaceAll("initial_hosts=\"[^\"]*\"", "initial_hosts=\"" + hosts + "\"");
        xml = with(xml, "port_range", "0");
        xml = with(xml, "max_bundle_timeout", "1");
        xml = with(xml, "thread_pool.queue_enabled", "true");
        xml = with(xml, "thread_pool.queue_max_size", "100000");
        xml = with(xml, "thread_pool.rejection_policy", "Run");
        if (total)
            xml = xml.replaceFirst("(?s)(<pbcast\\.GMS\\b.*?/>)", "$1<SEQUENCER/>");
        File file = File.createTempFile("jgroups-load", ".xml");
        file.deleteOnExit();
        Files.write(file.toPath(), xml.getBytes(StandardCharsets.UTF_8));
        return file;
    }

    private Message message(int size) {
        byte[] body = new byte[size];
        body[0] = self;
        return new Message(null, null, body);
    }

    /** Waits until nothing more comes. */
    private void drain() throws InterruptedException {
        long before;
        do {
            before = delivered.get();
            Thread.sleep(500);
        } while (delivered.get() != before);
    }

    private double rate(JChannel channel, int size, boolean sends, long millis) throws Exception {
        long start = System.nanoTime();
        long from = start + millis * 200_000L;
        long to = from + millis * 1_000_000L;
        Thread sender = null;
        if (sends) {
            sender = new Thread(() -> {
                try {
                    while (System.nanoTime() < to)
                        channel.send(message(size));
                } catch (Exception error) {
                    error.printStackTrace();
                    System.exit(1);
                }
            });
            sender.start();
        }
        TimeUnit.NANOSECONDS.sleep(from - System.nanoTime());
        long before = delivered.get();
        long began = System.nanoTime();
        TimeUnit.NANOSECONDS.sleep(Math.max(0, to - System.nanoTime()));
        double told = (delivered.get() - before) / ((System.nanoTime() - began) / 1e9);
        if (sender != null)
            sender.join();
        drain();
        return told;
    }

    private double latency(JChannel channel, int size, boolean sends, int count) throws Exception {
        double[] taken = new double[sends ? count : 0];
        for (int i = 0; i < taken.length; i++) {
            long start = System.nanoTime();
            awaiting = true;
            channel.send(message(size));
            Long end = own.poll(10, TimeUnit.SECONDS);
            if (end == null)
                throw new IllegalStateException("a message did not come back");
            taken[i] = (end - start) / 1e3;
        }
        drain();
        Arrays.sort(taken);
        return taken.length == 0 ? 0 : taken[taken.length / 2];
    }

    public static void main(String[] words) {
        // Threads of the group would keep the program alive.
        try {
            run(words);
            System.exit(0);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(String[] words) throws Exception {
        int wanted = Integer.parseInt(words[1]);
        String[] ports = words[3].split(",");
        JgroupsLoad member = new JgroupsLoad();
        member.self = (byte) (Arrays.asList(ports).indexOf(words[2]) + 1);
        JChannel channel = new JChannel(stack(words[0].equals("total"), words[2], ports));
        channel.setReceiver(member);
        channel.connect("bench");
        long late = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (member.members < wanted) {
            if (System.nanoTime() > late)
                throw new IllegalStateException(member.members + " members and not " + wanted);
            Thread.sleep(10);
        }
        Thread.sleep(1000);
        System.out.println("formed");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] order = line.split(" ");
            int size = Integer.parseInt(order[1]);
            boolean sends = order[2].equals("1");
            int last = Integer.parseInt(order[3]);
            System.out.println(order[0].equals("rate") ? member.rate(channel, size, sends, last)
                : member.latency(channel, size, sends, last));
        }
        channel.close();
    }
}
